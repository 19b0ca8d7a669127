"""What each confirmed trial answered to the test examples, read from the files of predictions of its run."""

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

from analysis.pseudo_values import pseudo_values
from analysis.records import Trial
from lopt import metrics
from lopt.locations import to_location
from lopt.metrics import Answers

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

_COLUMNS = ("example_id", "gold", "predicted")
_GROUP_COLUMNS, _NUMBER_COLUMNS = ("cluster", "group"), ("gold_number", "predicted_number")
_ACCURACY_TOLERANCE = 1e-9  # the most by which the accuracies of predictions and record may differ


@dataclass(frozen=True)
class TrialPredictions:
    """The content of one file of predictions. All arrays have the shape `[examples]`.

    Attributes:
        ids: example ids, sorted.
        answers: the true and the predicted answers to these examples.
    """

    ids: np.ndarray
    answers: Answers

    @cached_property
    def examples_hash(self) -> str:
        """Hash of the example ids, the true answers and the groups."""
        answers = self.answers
        arrays = (self.ids, answers.gold, answers.groups, answers.gold_numbers)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays if array is not None)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class UnusablePredictions:
    """A file of predictions that cannot be used, and the reason.

    `file` is its path, relative to the results folder. If the run has no predictions at all, it is the path of the
    missing folder.
    """

    trial: Trial
    file: str
    reason: str


def values_by_trial(trials: Sequence[Trial], metric: str) -> np.ndarray | None:
    """Return the values of the test examples, or of their clusters, for each trial, as `[trials, units]`.

    The mean of a trial's values is its score (`analysis.pseudo_values`). For accuracy, a value is 1 where the trial was
    right on an example, else 0.

    Return None unless all trials have predictions that agree with their records and are of the same examples. Example
    ids are row numbers, which are the same in all data sets. Therefore the records must agree on the data as well.
    None is also returned if this program does not have the metric, or the predictions lack what it needs.
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
    if not _has_what_it_needs(metric, all_predictions[0].answers):
        return None
    return np.stack([_values(trial.run, trial.key, metric) for trial in trials])


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


def values_by_group(*trial_groups: Sequence[Trial], metric: str) -> list[np.ndarray] | None:
    """Return a matrix like that of `values_by_trial` for each of several groups of trials.

    Return None if `values_by_trial` returns None for all these trials together.
    """
    values_KU = values_by_trial([trial for group in trial_groups for trial in group], metric)
    if values_KU is None:
        return None
    end_indices = [*accumulate(len(group) for group in trial_groups)]
    return [values_KU[end - len(group) : end] for group, end in zip(trial_groups, end_indices, strict=True)]


def _has_what_it_needs(metric_name: str, answers: Answers) -> bool:
    """Return whether this program has the metric, and the answers have the groups or numbers that it needs."""
    try:
        metric = metrics.get(metric_name)
    except ValueError:
        return False
    lacks_groups = metric.needs_groups and answers.groups is None
    return not lacks_groups and not (metric.needs_numbers and answers.gold_numbers is None)


@cache
def _values(run: str, key: str, metric: str) -> np.ndarray:
    trial_predictions = _read_predictions(run, key)
    assert isinstance(trial_predictions, TrialPredictions), "it was checked before"
    return pseudo_values(metrics.get(metric), trial_predictions.answers)


def _to_numbers(array: pyarrow.Array, whole: bool) -> np.ndarray:
    """Convert an Arrow array without `to_numpy`, which imports pandas. Numbers that are not whole must be doubles.

    Raises:
        ValueError: the array is empty, or it holds anything but such numbers.
    """
    import numpy as np
    import pyarrow

    has_type = pyarrow.types.is_integer(array.type) if whole else pyarrow.types.is_float64(array.type)
    if not len(array) or array.null_count or not has_type:
        raise ValueError(
            f"a column should hold {'whole' if whole else 'real'} numbers, but holds {len(array)} values of type "
            f"{array.type}, {array.null_count} of them missing"
        )
    if not whole:
        return np.frombuffer(array.buffers()[1], dtype=np.float64)[array.offset : array.offset + len(array)]
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
    answers, recorded_accuracy = trial_predictions.answers, trial.test_accuracy or 0.0
    accuracy = float((answers.gold == answers.predicted).mean())
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
        file = pyarrow.parquet.ParquetFile(content)
        names = file.schema_arrow.names
        optional_names = [name for name in (*_GROUP_COLUMNS, *_NUMBER_COLUMNS) if name in names]
        table = file.read([*_COLUMNS, *optional_names])
        columns = {
            name: _to_numbers(table.column(name).combine_chunks(), whole=name not in _NUMBER_COLUMNS)
            for name in (*_COLUMNS, *optional_names)
        }
    except FileNotFoundError:
        raise
    except KeyError:
        return "damaged: a column is missing"
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        return f"damaged: {shorten(str(error), 100, placeholder=' …')}"
    order = np.argsort(columns["example_id"], kind="stable")
    ids, *arrays = (columns[name][order] if name in columns else None for name in (*_COLUMNS, *_NUMBER_COLUMNS))
    gold, predicted, gold_numbers, predicted_numbers = arrays
    has_groups = all(name in columns for name in _GROUP_COLUMNS)
    groups = np.stack([columns[name][order] for name in _GROUP_COLUMNS], axis=1) if has_groups else None
    assert ids is not None and gold is not None and predicted is not None, "columns that must be there were read"
    if len(repeated_ids := ids[1:][ids[1:] == ids[:-1]]):
        return f"damaged: example {repeated_ids[0]} occurs twice"
    logit_count = sum(name.startswith("logit_") for name in names)
    answers = Answers(
        gold=gold,
        predicted=predicted,
        class_count=max(logit_count, int(max(gold.max(), predicted.max())) + 1),
        groups=groups,
        gold_numbers=gold_numbers,
        predicted_numbers=predicted_numbers,
    )
    return TrialPredictions(ids, answers)
