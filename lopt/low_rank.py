"""Is a trained soft prompt low-rank? Its singular values, and its accuracy after it has been cut to a lower rank.

LoPT (arXiv 2406.19486) assumes that trained prompts are nearly low-rank, and trains a prompt of rank r from the start.
The alternative is to train the whole prompt X and to cut it afterwards: the best approximation of rank r keeps the r
largest singular values (Eckart and Young 1936). `measure` does this for one trial.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lopt.restarts import seed_of_start
from lopt.soft_prompt import SoftPrompt
from lopt.types import Tensor

if TYPE_CHECKING:
    from lopt.training import Trial

SCHEMA_VERSION = 1  # of the files `low_rank/<key>.json`
CUT_RANKS = (1, 2, 5, 10)  # the ranks to which a prompt is cut, as far as they are below its own
CUT_SEEDS = 3  # the cuts are scored for this many confirm seeds, because each takes as long as scoring the trial


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The accuracy (a fraction) of a prompt that was cut to `rank`, on the `test_n` examples of the reported split."""

    rank: int
    test_accuracy: float
    test_n: int


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """How low-rank the trained prompt X of one trial is. It is stored as `low_rank/<key>.json` of a run.

    Attributes:
        key: the key of the trial.
        singular_values, initial_singular_values: of X and of its initial values, largest first, `[min(P, H)]`.
        stable_rank, initial_stable_rank: the stable ranks of these two matrices.
        cuts: the scores of X after it was cut to lower ranks, lowest rank first. Empty if they were not scored.
        time_s: seconds that all this took on the trial's device. The times of the trial's record do not include it.
    """

    key: str
    singular_values: tuple[float, ...]
    initial_singular_values: tuple[float, ...]
    stable_rank: float
    initial_stable_rank: float
    cuts: tuple[Cut, ...]
    time_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return the content of the file, as JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Any) -> LowRank:
        """Return what the content of a file says.

        Raises:
            ValueError: the content is damaged, or a newer version of this program wrote it.
        """
        if not isinstance(content, dict):
            raise ValueError("it does not hold a JSON object")
        if content.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"`schema_version` is {content.get('schema_version')!r}; this program reads 1")
        if not isinstance(content.get("key"), str):
            raise ValueError("`key` is not a text")
        cuts = content.get("cuts")
        if not isinstance(cuts, list) or not all(isinstance(cut, dict) for cut in cuts):
            raise ValueError("`cuts` is not a list of objects")
        low_rank = cls(
            key=content["key"],
            singular_values=_read_singular_values(content, "singular_values"),
            initial_singular_values=_read_singular_values(content, "initial_singular_values"),
            stable_rank=_read_number(content, "stable_rank"),
            initial_stable_rank=_read_number(content, "initial_stable_rank"),
            cuts=tuple(
                Cut(
                    rank=_read_count(cut, "rank"),
                    test_accuracy=_read_number(cut, "test_accuracy", most=1.0),
                    test_n=_read_count(cut, "test_n"),
                )
                for cut in cuts
            ),
            time_s=_read_number(content, "time_s"),
        )
        low_rank._check_sizes()
        return low_rank

    def _check_sizes(self) -> None:
        ranks = [cut.rank for cut in self.cuts]
        if len(self.singular_values) != len(self.initial_singular_values):
            raise ValueError("the trained prompt and its initial values have different numbers of singular values")
        if ranks != sorted(set(ranks)) or max(ranks, default=1) > len(self.singular_values):
            raise ValueError(f"the ranks of its cuts are {ranks}")
        if len({cut.test_n for cut in self.cuts}) > 1:
            raise ValueError("its cuts were scored on different numbers of examples")
        for name, values, rank in (
            ("stable_rank", self.singular_values, self.stable_rank),
            ("initial_stable_rank", self.initial_singular_values, self.initial_stable_rank),
        ):
            if not math.isclose(rank, stable_rank(values), rel_tol=1e-3):
                raise ValueError(f"`{name}` is {rank:g}, but the singular values have {stable_rank(values):g}")


def singular_values(matrix: Tensor) -> tuple[float, ...]:
    """Return the singular values of a matrix `[P, H]`, largest first. They are computed in float64."""
    import torch

    return tuple(torch.linalg.svdvals(matrix.detach().cpu().double()).tolist())


def stable_rank(values: Sequence[float]) -> float:
    """Return the stable rank ‖X‖_F² / ‖X‖₂² of a matrix with these singular values.

    It is at most the rank, and small singular values hardly count (Rudelson and Vershynin 2007, arXiv math/0503442).

    Raises:
        ValueError: all values are 0.
    """
    largest_value = max(values)
    if not largest_value:
        raise ValueError("the matrix is zero, so it has no stable rank")
    return math.fsum((value / largest_value) ** 2 for value in values)


def cut_ranks(length: int, width: int) -> tuple[int, ...]:
    """Return the ranks to which a prompt of this length and width is cut: those of `CUT_RANKS` below min(n, d)."""
    return tuple(rank for rank in CUT_RANKS if rank < min(length, width))


def cut_to_rank(soft_prompt: SoftPrompt, rank: int) -> SoftPrompt:
    """Return the soft prompt with the best approximation of X that has at most this rank.

    No other matrix of this rank is closer to X, `[P, H]`, in the Frobenius norm.
    """
    import torch

    prompt_PH = soft_prompt.prompt
    left_PK, values_K, right_KH = torch.linalg.svd(prompt_PH.detach().cpu().double(), full_matrices=False)
    cut_PH = left_PK[:, :rank] * values_K[:rank] @ right_KH[:rank]
    return replace(soft_prompt, prompt=cut_PH.to(prompt_PH))


def measure(trial: Trial) -> LowRank:
    """Compare the best prompt of a trial with its initial values, and score its cuts on the reported split.

    The cuts of trials with a seed above `CUT_SEEDS` are not scored.

    The initial values are those of the start that was not abandoned (`lopt.restarts`).
    The method of the trial must train the whole prompt (`Method.trains_whole_prompt`).

    Raises:
        ValueError: the prompt is zero, or its initial values can no longer be read.
    """
    from lopt.evaluation import predict_split

    began = time.perf_counter()
    initial_seed = seed_of_start(trial.config.seed, trial.abandoned_starts)
    initial_prompt = trial.method.begin(trial.backbone, trial.config.replace(seed=initial_seed)).soft_prompt()
    soft_prompt = trial.best_prompt().soft_prompt
    assert initial_prompt is not None and soft_prompt is not None
    trained_values, initial_values = singular_values(soft_prompt.prompt), singular_values(initial_prompt.prompt)
    cuts = []
    for rank in cut_ranks(*soft_prompt.prompt.shape) if trial.config.seed <= CUT_SEEDS else ():
        cut_prompt = cut_to_rank(soft_prompt, rank).map(lambda tensor: tensor.to(trial.backbone.device))
        predictions = predict_split(trial.backbone, cut_prompt, trial.data.test, trial.label_ids)
        cuts.append(Cut(rank=rank, test_accuracy=predictions.accuracy, test_n=len(predictions.gold)))
    return LowRank(
        key=trial.config.key,
        singular_values=trained_values,
        initial_singular_values=initial_values,
        stable_rank=stable_rank(trained_values),
        initial_stable_rank=stable_rank(initial_values),
        cuts=tuple(cuts),
        time_s=round(time.perf_counter() - began, 3),
    )


def _read_number(source: Mapping[str, Any], name: str, *, most: float = math.inf) -> float:
    """Return an entry that is a finite number from 0 to `most`. Raise ValueError for anything else."""
    return _check_number(source.get(name), f"`{name}`", most)


def _read_count(source: Mapping[str, Any], name: str) -> int:
    """Return an entry that is a whole number of 1 or more. Raise ValueError for anything else."""
    value = source.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
        raise ValueError(f"`{name}` is not a whole number of 1 or more")
    return value


def _read_singular_values(source: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = source.get(name)
    if not isinstance(values, list) or not values:
        raise ValueError(f"`{name}` is not a list of numbers")
    numbers = tuple(_check_number(value, f"an entry of `{name}`") for value in values)
    if list(numbers) != sorted(numbers, reverse=True) or not numbers[0]:
        raise ValueError(f"`{name}` are not singular values, largest first")
    return numbers


def _check_number(value: Any, name: str, most: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= min(most, 1e300):
        raise ValueError(f"{name} is not a number from 0{'' if math.isinf(most) else f' to {most:g}'}")
    return float(value)
