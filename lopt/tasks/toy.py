"""A made-up task for tests and the `smoke` space: does a line hold more good words than bad ones?

Generated from a fixed seed; no accuracy on it says anything about a method.
"""

from collections.abc import Iterable

import numpy as np

from lopt.tasks import Row, Task

_GOOD = ("good", "fine", "warm", "bright", "fresh")
_BAD = ("bad", "dull", "cold", "grim", "stale")
_OTHER = ("the", "a", "film", "plot", "song", "with", "and", "very", "of", "scene")
_SIZES = {"train": 400, "validation": 120}


def rows(split: str) -> Iterable[Row]:
    """Rows of "train" (400) or "validation" (120), balanced: idx, text, label."""
    draw = np.random.RandomState(list(_SIZES).index(split))
    for idx in range(_SIZES[split]):
        label = idx % 2
        words = list(draw.choice(_OTHER, size=draw.randint(2, 12)))
        words += list(draw.choice(_GOOD if label else _BAD, size=2)) + list(
            draw.choice(_BAD if label else _GOOD, size=1)
        )
        draw.shuffle(words)
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
