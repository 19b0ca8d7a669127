"""Initial values of factors.

They are drawn from `numpy.random.RandomState`, whose streams NumPy has frozen (NEP 19). So the values are the same bits
on every machine and with every version of NumPy, and random matrices that are not trained need not be stored.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import RandomState

from lopt.backbones import Vocabulary
from lopt.files import refuse_lfs_pointer
from lopt.soft_prompt import PROMPT_FILE

COMMON_TOKEN_COUNT = 5000  # number of tokens from which initial rows are drawn
_PINNED_PROMPT_PATTERN = re.compile(r"(.+)#(\d+)x(\d+)-([0-9a-f]{16})")  # what `pin_saved_prompt` returns

# A function that draws initial values of a shape. The vocabulary is None for factors that do not need it.
DrawFunction = Callable[[RandomState, tuple[int, ...], Vocabulary | None], np.ndarray]


def uniform(bound: float) -> DrawFunction:
    """Uniform in [-bound, bound]."""
    return lambda generator, shape, _: generator.uniform(-bound, bound, shape)


def normal(deviation: float) -> DrawFunction:
    """Normal, N(0, deviation²)."""
    return lambda generator, shape, _: generator.normal(0.0, deviation, shape)


def constant(value: float) -> DrawFunction:
    """The same value everywhere."""
    return lambda generator, shape, _: np.full(shape, value)


def kaiming_uniform() -> DrawFunction:
    """PyTorch's `kaiming_uniform_(a=√5)`, the default of a linear layer: U[-1/√fan_in, 1/√fan_in], with the last
    dimension as fan_in."""
    return lambda generator, shape, _: generator.uniform(-(shape[-1] ** -0.5), shape[-1] ** -0.5, shape)


def xavier_uniform() -> DrawFunction:
    """Glorot and Bengio 2010: U[-a, a] with a = √(6 / (fan_in + fan_out))."""
    return lambda generator, shape, _: generator.uniform(-((6 / sum(shape)) ** 0.5), (6 / sum(shape)) ** 0.5, shape)


def vocabulary_rows(generator: RandomState, shape: tuple[int, ...], vocabulary: Vocabulary | None) -> np.ndarray:
    """Embeddings of tokens drawn from the 5,000 commonest tokens (Lester et al. 2021, section 3.2)."""
    assert vocabulary is not None
    token_ids = vocabulary.ordinary_token_ids(COMMON_TOKEN_COUNT)
    drawn_ids = generator.choice(token_ids, size=shape[0], replace=len(token_ids) < shape[0])
    return vocabulary.token_embeddings(drawn_ids)


def label_word_rows(generator: RandomState, shape: tuple[int, ...], vocabulary: Vocabulary | None) -> np.ndarray:
    """Embeddings of the label words, and after them, if the prompt is longer, of drawn tokens (Lester et al. 2021,
    section 3.2)."""
    assert vocabulary is not None
    rows = vocabulary_rows(generator, shape, vocabulary)
    word_rows = vocabulary.label_word_embeddings()[: shape[0]]
    rows[: len(word_rows)] = word_rows
    return rows


def factorise(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Return U `[n, r]` and V `[r, d]` whose product is the best approximation of this rank to a matrix `[n, d]`.

    The entries of both have the same root mean square, as if both were drawn from one distribution. The largest entry
    of each row of V is positive, because a singular value decomposition leaves the signs open.

    Raises:
        ValueError: the rank is above n or d, or the matrix is 0.
    """
    if rank > min(matrix.shape) or not matrix.any():
        raise ValueError(
            f"a prompt of {matrix.shape[0]} rows of width {matrix.shape[1]} gives no initial factors of rank {rank}"
            f"{'' if matrix.any() else ', because it is 0'}: leave init out, or give a smaller rank or another prompt"
        )
    left, singular_values, right = np.linalg.svd(matrix, full_matrices=False)
    signs = np.sign(right[np.arange(rank), np.abs(right[:rank]).argmax(axis=1)])
    u, v = left[:, :rank] * singular_values[:rank] * signs, right[:rank] * signs[:, None]
    ratio = np.sqrt(np.sqrt((u**2).mean() / (v**2).mean()))
    return u / ratio, v * ratio


# The words that the `init` option can have, each with a function that takes `init_bound` and returns a `DrawFunction`.
DRAW_BY_INIT: dict[str, Callable[[float], DrawFunction]] = {
    "uniform": uniform,
    "vocabulary": lambda bound: vocabulary_rows,
    "label_words": lambda bound: label_word_rows,
}


def make_prompt_draw(init: str, bound: float, shape: tuple[int, int]) -> DrawFunction:
    """Return the function that draws the initial values of a prompt that is trained directly, not as a product.

    Args:
        init: the `init` option: a word of `DRAW_BY_INIT`, or a saved prompt as `pin_saved_prompt` returns it.
        bound: the `init_bound` option.
        shape: `[P, H]`.

    Raises:
        ValueError: the saved prompt has another shape.
    """
    match = _PINNED_PROMPT_PATTERN.fullmatch(init)
    if match is None:
        return DRAW_BY_INIT[init](bound)
    folder, saved_length, saved_width = match[1], int(match[2]), int(match[3])
    if (saved_length, saved_width) != shape:
        raise ValueError(
            f"init is a prompt of {saved_length} rows of width {saved_width}, but this trial's has {shape[0]} rows of "
            f"width {shape[1]}: give length {saved_length} and a backbone of width {saved_width}"
        )

    def draw(*_: object) -> np.ndarray:
        if pin_saved_prompt(folder) != init:
            raise ValueError(f"init is {init}, but that folder holds another prompt now: restore the former one")
        return _read_prompt(Path(folder))

    return draw


def pin_saved_prompt(folder: str) -> str:
    """Return the value of the `init` option for the folder of a trained prompt X: "PATH#ROWSxWIDTH-HASH".

    The shape and the hash are in the value so that a trial's key depends on the initial values themselves. If `folder`
    is such a value already, it is returned as it is.

    Raises:
        ValueError: the folder holds no prompt, or the prompt cannot be read.
    """
    if _PINNED_PROMPT_PATTERN.fullmatch(folder):
        return folder
    path = Path(folder).expanduser().resolve()
    prompt_PH = _read_prompt(path)
    digest = hashlib.sha256(prompt_PH.tobytes()).hexdigest()[:16]
    return f"{path}#{prompt_PH.shape[0]}x{prompt_PH.shape[1]}-{digest}"


def _read_prompt(folder: Path) -> np.ndarray:
    """Return the prompt in a folder, `[P, H]`, float64."""
    from safetensors.numpy import load_file

    if not (folder / PROMPT_FILE).is_file():
        raise ValueError(
            f"init is {str(folder)!r}; valid: {', '.join(DRAW_BY_INIT)}, or a folder that holds a {PROMPT_FILE}"
        )
    refuse_lfs_pointer(folder / PROMPT_FILE)
    try:
        prompt_PH = load_file(folder / PROMPT_FILE)["prompt"]
    except Exception as error:  # the reader may raise anything on a damaged file
        raise ValueError(f"init is {str(folder)!r}, whose {PROMPT_FILE} gives no prompt ({error!r})") from None
    if prompt_PH.ndim != 2 or not np.isfinite(prompt_PH).all():
        raise ValueError(f"init is {str(folder)!r}, whose prompt is not a matrix of finite numbers")
    return prompt_PH.astype(np.float64)
