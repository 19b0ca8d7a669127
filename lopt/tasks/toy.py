"""A made-up task for tests and the `smoke` space: does a line hold more good words than bad words?

Its rows are generated from a fixed seed. An accuracy on this task says nothing about a method.
"""

from collections.abc import Iterable

import numpy as np

from lopt.tasks import Row, Task

_GOOD_WORDS = ("good", "fine", "warm", "bright", "fresh")
_BAD_WORDS = ("bad", "dull", "cold", "grim", "stale")
_OTHER_WORDS = ("the", "a", "film", "plot", "song", "with", "and", "very", "of", "scene")
_ROW_COUNTS = {"train": 400, "validation": 120}


def rows(split: str) -> Iterable[Row]:
    """Yield the rows of "train" (400) or "validation" (120), in balanced classes, with columns idx, text and label."""
    generator = np.random.RandomState(list(_ROW_COUNTS).index(split))
    for idx in range(_ROW_COUNTS[split]):
        label = idx % 2
        words = list(generator.choice(_OTHER_WORDS, size=generator.randint(2, 12)))
        majority_words, minority_words = (_GOOD_WORDS, _BAD_WORDS) if label else (_BAD_WORDS, _GOOD_WORDS)
        words += [*generator.choice(majority_words, size=2), *generator.choice(minority_words, size=1)]
        generator.shuffle(words)
        yield {"idx": idx, "text": " ".join(words), "label": label}


SPEC = Task(
    name="toy",
    title="Toy (made up)",
    columns=("text",),
    classes=("negative", "positive"),
    template="{text} It was",
    label_words=(" bad", " great"),
    cut_column="text",
    report_size=_ROW_COUNTS["validation"],
    load=rows,
)
