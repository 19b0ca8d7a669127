"""A made-up task for tests and the `smoke` space: does a line hold more good words than bad words?

Its rows are generated from a fixed seed. An accuracy on this task says nothing about a method.
"""

from collections.abc import Iterable

import numpy as np

from lopt.tasks import Row, Task

_GOOD = ("good", "fine", "warm", "bright", "fresh")
_BAD = ("bad", "dull", "cold", "grim", "stale")
_OTHER = ("the", "a", "film", "plot", "song", "with", "and", "very", "of", "scene")
_SIZES = {"train": 400, "validation": 120}


def rows(split: str) -> Iterable[Row]:
    """Yield the rows of "train" (400) or "validation" (120), in balanced classes, with columns idx, text and label."""
    generator = np.random.RandomState(list(_SIZES).index(split))
    for idx in range(_SIZES[split]):
        label = idx % 2
        words = list(generator.choice(_OTHER, size=generator.randint(2, 12)))
        majority, minority = (_GOOD, _BAD) if label else (_BAD, _GOOD)
        words += [*generator.choice(majority, size=2), *generator.choice(minority, size=1)]
        generator.shuffle(words)
        yield {"idx": idx, "text": " ".join(words), "label": label}


SPEC = Task(
    name="toy",
    title="Toy (made up)",
    columns=("text",),
    classes=("negative", "positive"),
    template="{text} It was",
    label_words=(" bad", " great"),
    cut="text",
    report_size=_SIZES["validation"],
    load=rows,
)
