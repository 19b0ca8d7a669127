"""Which test examples each confirmed trial got right, read from the predictions beside its record."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from textwrap import shorten
from typing import TYPE_CHECKING

from analysis.records import Trial
from lopt.locations import location

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

_TOLERANCE = 1e-9  # between the accuracy of the predictions and that of the record


@dataclass(frozen=True)
class Scores:
    """The content of one file of predictions. All arrays are `[examples]`.

    Attributes:
        ids: example ids, sorted.
        gold: the class of each example.
        correct: 1 where that class was predicted, else 0.
    """

    ids: np.ndarray
    gold: np.ndarray
    correct: np.ndarray

    @cached_property
    def examples_hash(self) -> str:
        """Hash of the example ids and their classes."""
        return hashlib.sha256(self.ids.tobytes() + self.gold.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """Predictions of a trial that cannot be used.

    `file` is the file's path from the results folder, or the path of the folder if the run has no predictions at all.
    """

    trial: Trial
    file: str
    reason: str


def correct_by_trial(trials: Sequence[Trial]) -> np.ndarray | None:
    """Return 1 where a trial was right on an example, else 0, as `[trials, examples]`.

    None unless all trials have predictions that agree with their records and are of the same examples. Files name
    examples by their position, and other data have the same positions. So the records must agree on the data, too.
    """
    import numpy as np

    if len({trial.scored_on for trial in trials}) > 1:
        return None
    usable = [scores for trial in trials if isinstance(scores := _scores(trial), Scores)]
    if not usable or len(usable) < len(trials) or len({scores.examples_hash for scores in usable}) > 1:
        return None
    return np.stack([scores.correct for scores in usable])


def unusable(trials: Sequence[Trial]) -> list[Unusable]:
    """Return the predictions of confirmed trials that cannot be used.

    They are missing or damaged, belong to another record, or are of other examples than those of most trials that
    should have been scored on the same.
    """
    scores_or_reasons = [_scores(trial) for trial in trials]
    hashes: dict[object, Counter[str]] = {}
    for trial, scores in zip(trials, scores_or_reasons, strict=True):
        if isinstance(scores, Scores):
            hashes.setdefault(trial.scored_on, Counter())[scores.examples_hash] += 1
    unusable_files = []
    for trial, scores in zip(trials, scores_or_reasons, strict=True):
        if isinstance(scores, str):
            reason = scores
        elif scores.examples_hash != hashes[trial.scored_on].most_common(1)[0][0]:
            reason = "its examples or their classes are not those of other trials"
        else:
            continue
        run = location(trial.run)
        has_no_folder = reason == "missing" and not (run / "predictions").is_dir()
        file = f"{run.name}/predictions{'' if has_no_folder else f'/{trial.key}.parquet'}"
        unusable_files.append(Unusable(trial=trial, file=file, reason=reason))
    return unusable_files


def correct_by_group(*groups: Sequence[Trial]) -> list[np.ndarray] | None:
    """Return what `correct_by_trial` returns, for each of several groups of trials.

    None unless it returns something for all trials of all groups together.
    """
    correct_TN = correct_by_trial([trial for group in groups for trial in group])
    if correct_TN is None:
        return None
    ends = [*accumulate(len(group) for group in groups)]
    return [correct_TN[end - len(group) : end] for group, end in zip(groups, ends, strict=True)]


def _whole_numbers(values: pyarrow.Array) -> np.ndarray:
    """Convert an Arrow array without `to_numpy`, which imports pandas.

    Raises:
        ValueError: the array is empty, or holds something else than whole numbers.
    """
    import numpy as np
    import pyarrow

    if not len(values) or values.null_count or not pyarrow.types.is_integer(values.type):
        raise ValueError(
            f"a column should hold whole numbers, but holds {len(values)} values of type {values.type}, "
            f"{values.null_count} of them missing"
        )
    return np.frombuffer(values.buffers()[1], dtype=str(values.type))[values.offset : values.offset + len(values)]


def _scores(trial: Trial) -> Scores | str:
    """Return the predictions of a confirmed trial, or the reason why they cannot be used."""
    scores = _read(trial.run, trial.key)
    if isinstance(scores, str):
        return scores
    if len(scores.ids) != trial.test_n:
        return f"it holds {len(scores.ids):,} examples, but its record has {trial.test_n or 0:,}"
    accuracy, recorded = float(scores.correct.mean()), trial.test_accuracy or 0.0
    if abs(accuracy - recorded) > _TOLERANCE:
        return f"it gives an accuracy of {100 * accuracy:.4g} %, but its record has {100 * recorded:.4g} %"
    return scores


@cache
def _read(run: str, key: str) -> Scores | str:
    """Read a file, sorted by example id; or return the reason why it cannot be read."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path = location(run) / "predictions" / f"{key}.parquet"
    try:
        content = io.BytesIO(path.read_bytes())
        # `read_table` would be nine times slower for so small a file.
        table = pyarrow.parquet.ParquetFile(content).read(["example_id", "gold", "predicted"])
        ids, gold, predicted = (
            _whole_numbers(table.column(name).combine_chunks()) for name in ("example_id", "gold", "predicted")
        )
    except FileNotFoundError:
        return "missing"
    except KeyError:
        return "damaged: a column is missing"
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        return f"damaged: {shorten(str(error), 100, placeholder=' …')}"
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(repeated := ids[1:][ids[1:] == ids[:-1]]):
        return f"damaged: example {repeated[0]} occurs twice"
    return Scores(ids, gold[order], (gold == predicted)[order].astype(np.float64))
