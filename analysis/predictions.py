"""Which test examples each confirmed trial got right, read from the files of predictions of its run."""

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
from lopt.locations import to_location

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

_ACCURACY_TOLERANCE = 1e-9  # the most by which the accuracies of predictions and record may differ


@dataclass(frozen=True)
class TrialPredictions:
    """The content of one file of predictions. All arrays have the shape `[examples]`.

    Attributes:
        ids: example ids, sorted.
        gold: the true class of each example.
        correct: 1 where the true class was predicted, else 0.
    """

    ids: np.ndarray
    gold: np.ndarray
    correct: np.ndarray

    @cached_property
    def examples_hash(self) -> str:
        """Hash of the example ids and the true classes."""
        return hashlib.sha256(self.ids.tobytes() + self.gold.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class UnusablePredictions:
    """A file of predictions that cannot be used, and the reason.

    `file` is its path, relative to the results folder. If the run has no predictions at all, it is the path of the
    missing folder.
    """

    trial: Trial
    file: str
    reason: str


def correct_by_trial(trials: Sequence[Trial]) -> np.ndarray | None:
    """Return 1 where a trial was right on an example, else 0, as `[trials, examples]`.

    Return None unless all trials have predictions that agree with their records and are of the same examples. Example
    ids are row numbers, which are the same in all data sets. Therefore the records must agree on the data as well.
    """
    import numpy as np

    if len({trial.scored_on for trial in trials}) > 1:
        return None
    all_predictions = [
        trial_predictions
        for trial in trials
        if isinstance(trial_predictions := _read_checked_predictions(trial), TrialPredictions)
    ]
    if (
        not all_predictions
        or len(all_predictions) < len(trials)
        or len({trial_predictions.examples_hash for trial_predictions in all_predictions}) > 1
    ):
        return None
    return np.stack([trial_predictions.correct for trial_predictions in all_predictions])


def unusable_predictions(trials: Sequence[Trial]) -> list[UnusablePredictions]:
    """Return the predictions of confirmed trials that cannot be used.

    Such predictions are missing or damaged, or do not agree with the trial's record, or their examples are not those
    of most trials that should have been scored on the same examples.
    """
    predictions_or_reasons = [_read_checked_predictions(trial) for trial in trials]
    hash_counts: dict[object, Counter[str]] = {}
    for trial, trial_predictions in zip(trials, predictions_or_reasons, strict=True):
        if isinstance(trial_predictions, TrialPredictions):
            hash_counts.setdefault(trial.scored_on, Counter())[trial_predictions.examples_hash] += 1
    unusable = []
    for trial, trial_predictions in zip(trials, predictions_or_reasons, strict=True):
        if isinstance(trial_predictions, str):
            reason = trial_predictions
        elif trial_predictions.examples_hash != hash_counts[trial.scored_on].most_common(1)[0][0]:
            reason = "its examples or their classes are not those of other trials"
        else:
            continue
        run = to_location(trial.run)
        has_no_folder = reason == "missing" and not (run / "predictions").is_dir()
        file = f"{run.name}/predictions{'' if has_no_folder else f'/{trial.key}.parquet'}"
        unusable.append(UnusablePredictions(trial=trial, file=file, reason=reason))
    return unusable


def correct_by_group(*trial_groups: Sequence[Trial]) -> list[np.ndarray] | None:
    """Return a matrix like that of `correct_by_trial` for each of several groups of trials.

    Return None if `correct_by_trial` returns None for all these trials together.
    """
    correct_KN = correct_by_trial([trial for group in trial_groups for trial in group])
    if correct_KN is None:
        return None
    end_indices = [*accumulate(len(group) for group in trial_groups)]
    return [correct_KN[end - len(group) : end] for group, end in zip(trial_groups, end_indices, strict=True)]


def _to_whole_numbers(array: pyarrow.Array) -> np.ndarray:
    """Convert an Arrow array without `to_numpy`, which imports pandas.

    Raises:
        ValueError: the array is empty, or it holds anything but whole numbers.
    """
    import numpy as np
    import pyarrow

    if not len(array) or array.null_count or not pyarrow.types.is_integer(array.type):
        raise ValueError(
            f"a column should hold whole numbers, but holds {len(array)} values of type {array.type}, "
            f"{array.null_count} of them missing"
        )
    return np.frombuffer(array.buffers()[1], dtype=str(array.type))[array.offset : array.offset + len(array)]


def _read_checked_predictions(trial: Trial) -> TrialPredictions | str:
    """Return the predictions of a confirmed trial, or the reason why they cannot be used."""
    try:
        trial_predictions = _read_predictions(trial.run, trial.key)
    except FileNotFoundError:  # not cached, because a running sweep may still write the file
        return "missing"
    if isinstance(trial_predictions, str):
        return trial_predictions
    if len(trial_predictions.ids) != trial.test_n:
        return f"it holds {len(trial_predictions.ids):,} examples, but its record has {trial.test_n or 0:,}"
    accuracy, recorded_accuracy = float(trial_predictions.correct.mean()), trial.test_accuracy or 0.0
    if abs(accuracy - recorded_accuracy) > _ACCURACY_TOLERANCE:
        return f"it gives an accuracy of {100 * accuracy:.4g} %, but its record has {100 * recorded_accuracy:.4g} %"
    return trial_predictions


@cache
def _read_predictions(run: str, key: str) -> TrialPredictions | str:
    """Return the predictions of a trial, sorted by example id, or the reason why they cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
    """
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path = to_location(run) / "predictions" / f"{key}.parquet"
    try:
        content = io.BytesIO(path.read_bytes())
        # `read_table` is nine times slower for such a small file.
        table = pyarrow.parquet.ParquetFile(content).read(["example_id", "gold", "predicted"])
        ids, gold, predicted = (
            _to_whole_numbers(table.column(name).combine_chunks()) for name in ("example_id", "gold", "predicted")
        )
    except FileNotFoundError:
        raise
    except KeyError:
        return "damaged: a column is missing"
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        return f"damaged: {shorten(str(error), 100, placeholder=' …')}"
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(repeated_ids := ids[1:][ids[1:] == ids[:-1]]):
        return f"damaged: example {repeated_ids[0]} occurs twice"
    return TrialPredictions(ids, gold[order], (gold == predicted)[order].astype(np.float64))
