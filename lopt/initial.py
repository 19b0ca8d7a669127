"""Initial values. `numpy.random.RandomState`'s streams are frozen by NumPy (NEP 19), so they are the same bits on every
machine and version; frozen random matrices need not be stored."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import RandomState

from lopt.backbones import Vocabulary

COMMONEST = 5000

Draw = Callable[[RandomState, tuple[int, ...], Vocabulary | None], np.ndarray]


def uniform(bound: float) -> Draw:
    """U[-bound, bound]."""
    return lambda random, shape, _: random.uniform(-bound, bound, shape)


def normal(deviation: float) -> Draw:
    """N(0, deviation²)."""
    return lambda random, shape, _: random.normal(0.0, deviation, shape)


def constant(value: float) -> Draw:
    return lambda random, shape, _: np.full(shape, value)


def kaiming_uniform() -> Draw:
    """PyTorch's `kaiming_uniform_(a=√5)`, a linear layer's default: U[-1/√fan_in, 1/√fan_in], fan_in the last
    dimension."""
    return lambda random, shape, _: random.uniform(-(shape[-1] ** -0.5), shape[-1] ** -0.5, shape)


def xavier_uniform() -> Draw:
    """Glorot and Bengio 2010: U[-a, a], a = √(6 / (fan_in + fan_out))."""
    return lambda random, shape, _: random.uniform(-((6 / sum(shape)) ** 0.5), (6 / sum(shape)) ** 0.5, shape)


def vocabulary_rows(random: RandomState, shape: tuple[int, ...], vocabulary: Vocabulary | None) -> np.ndarray:
    """Embeddings of tokens drawn from the 5,000 commonest (Lester et al. 2021, section 3.2)."""
    assert vocabulary is not None
    ids = vocabulary.ordinary_ids(COMMONEST)
    return vocabulary.token_rows(random.choice(ids, size=shape[0], replace=len(ids) < shape[0]))


def label_rows(random: RandomState, shape: tuple[int, ...], vocabulary: Vocabulary | None) -> np.ndarray:
    """Embeddings of the label words, then of drawn tokens where the prompt is longer (Lester et al. 2021, section
    3.2)."""
    assert vocabulary is not None
    rows = vocabulary_rows(random, shape, vocabulary)
    labels = vocabulary.label_rows()[: shape[0]]
    rows[: len(labels)] = labels
    return rows


# The `init` option of methods that train embeddings themselves: what each word makes of `init_bound`.
INITIAL: dict[str, Callable[[float], Draw]] = {
    "uniform": uniform,
    "vocabulary": lambda bound: vocabulary_rows,
    "label_words": lambda bound: label_rows,
}


def prompt_rows(init: str, bound: float) -> Draw:
    """The initial values of a prompt that is trained itself, by the `init` option."""
    return INITIAL[init](bound)
