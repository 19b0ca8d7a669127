"""Initial values. `numpy.random.RandomState`'s streams are frozen by NumPy (NEP 19), so they are the same bits on every
machine and version; frozen random matrices need not be stored."""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from lopt.backbones import Vocabulary
from lopt.files import refuse_pointer
from lopt.soft_prompt import TENSORS

COMMONEST = 5000
_SAVED = re.compile(r"(.+)#(\d+)x(\d+)-([0-9a-f]{16})")

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


def prompt_rows(init: str, bound: float, shape: tuple[int, int]) -> Draw:
    """The initial values of a prompt that is trained itself, by the `init` option: a word, or what `saved_prompt` says.
    ValueError when the saved prompt has another shape `[P, H]`."""
    saved = _SAVED.fullmatch(init)
    if saved is None:
        return INITIAL[init](bound)
    rows, width = int(saved[2]), int(saved[3])
    if (rows, width) != shape:
        raise ValueError(
            f"init is a prompt of {rows} rows of width {width}, and this trial's is {shape[0]} rows of width "
            f"{shape[1]}: give length {rows}, and a backbone of width {width}"
        )

    def draw(*_: object) -> np.ndarray:
        if saved_prompt(saved[1]) != init:
            raise ValueError(f"init is {init}, and the prompt in that folder is another one now: restore it")
        return _read(Path(saved[1]))

    return draw


def saved_prompt(folder: str) -> str:
    """What the `init` option becomes where it names the folder of a trained prompt X: the whole path, and X's shape and
    hash, so that a trial's key depends on the values that it begins with. What says this already stays as it is.
    ValueError when there is no prompt, or it cannot be read."""
    if _SAVED.fullmatch(folder):
        return folder
    path = Path(folder).expanduser().resolve()
    prompt_PH = _read(path)
    digest = hashlib.sha256(prompt_PH.tobytes()).hexdigest()[:16]
    return f"{path}#{prompt_PH.shape[0]}x{prompt_PH.shape[1]}-{digest}"


def _read(folder: Path) -> np.ndarray:
    """The prompt in a folder, `[P, H]`, float64."""
    from safetensors.numpy import load_file

    if not (folder / TENSORS).is_file():
        raise ValueError(f"init is {str(folder)!r}; valid: {', '.join(INITIAL)}, or a folder that holds a {TENSORS}")
    refuse_pointer(folder / TENSORS)
    try:
        prompt_PH = load_file(folder / TENSORS)["prompt"]
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise ValueError(f"init is {str(folder)!r}, whose {TENSORS} gives no prompt ({error!r})") from None
    if prompt_PH.ndim != 2 or not np.isfinite(prompt_PH).all():
        raise ValueError(f"init is {str(folder)!r}, whose prompt is no matrix of finite numbers")
    return prompt_PH.astype(np.float64)
