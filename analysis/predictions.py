"""Which test examples each confirmed trial got right, from the predictions that it left beside its record."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from textwrap import shorten
from typing import TYPE_CHECKING

from analysis.records import Trial
from lopt.locations import location

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

_SAME = 1e-9  # accuracy of the predictions beside that of the record


@dataclass(frozen=True)
class Scores:
    """One file: example ids in their order, the class of each, and 1 where it was predicted; all `[examples]`."""

    ids: np.ndarray
    gold: np.ndarray
    right: np.ndarray

    @cached_property
    def examples(self) -> str:
        """Hash of which examples these are, and of their classes."""
        return hashlib.sha256(self.ids.tobytes() + self.gold.tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """A trial's predictions that count nowhere; `file` as a reader would look for it, the folder where it has none."""

    trial: Trial
    file: str
    why: str


def correct(trials: Sequence[Trial]) -> np.ndarray | None:
    """1 where a trial was right on an example, `[trials, examples]`; None unless all left predictions, of the same
    examples, that belong to their records. Files name examples by their places, which other data have, too: so what the
    records say of the data counts as well."""
    import numpy as np

    if len({trial.scored_on for trial in trials}) > 1:
        return None
    scores = [_scores(trial) for trial in trials]
    known = [each for each in scores if isinstance(each, Scores)]
    if not known or len(known) < len(trials) or len({each.examples for each in known}) > 1:
        return None
    return np.stack([each.right for each in known])


def unusable(trials: Sequence[Trial]) -> list[Unusable]:
    """Those of some confirmed trials whose predictions are missing, damaged, of another record, or of other examples
    than most trials have that were to be scored on the same."""
    scores = [_scores(trial) for trial in trials]
    examples: dict[object, Counter[str]] = {}
    for trial, each in zip(trials, scores, strict=True):
        if isinstance(each, Scores):
            examples.setdefault(trial.scored_on, Counter())[each.examples] += 1
    unusable_files = []
    for trial, each in zip(trials, scores, strict=True):
        why = each if isinstance(each, str) else "of other examples, or other classes of them, than other trials"
        if isinstance(each, str) or each.examples != examples[trial.scored_on].most_common(1)[0][0]:
            run = location(trial.run)
            whole = why == "missing" and not (run / "predictions").is_dir()
            file = f"{run.name}/predictions{'' if whole else f'/{trial.key}.parquet'}"
            unusable_files.append(Unusable(trial=trial, file=file, why=why))
    return unusable_files


def common(*groups: Sequence[Trial]) -> list[np.ndarray] | None:
    """`correct` of several groups of trials that were scored on the same examples; else None."""
    together = correct([trial for group in groups for trial in group])
    if together is None:
        return None
    ends = [sum(len(group) for group in groups[: n + 1]) for n in range(len(groups))]
    return [together[end - len(group) : end] for group, end in zip(groups, ends, strict=True)]


def _whole_numbers(values: pyarrow.Array) -> np.ndarray:
    """What an array holds, without `to_numpy`, which imports pandas.

    Raises:
        ValueError: something else than whole numbers, or nothing.
    """
    import numpy as np
    import pyarrow

    if not len(values) or values.null_count or not pyarrow.types.is_integer(values.type):
        raise ValueError(f"a column of {values.type}")
    return np.frombuffer(values.buffers()[1], dtype=str(values.type))[values.offset : values.offset + len(values)]


def _scores(trial: Trial) -> Scores | str:
    """The predictions of a confirmed trial, or why they cannot be used."""
    scores = _read(trial.run, trial.key)
    if isinstance(scores, str):
        return scores
    if len(scores.ids) != trial.test_n:
        return f"holds {len(scores.ids):,} examples, its record has {trial.test_n or 0:,}"
    accuracy, recorded = float(scores.right.mean()), trial.test_accuracy or 0.0
    if abs(accuracy - recorded) > _SAME:
        return f"gives an accuracy of {100 * accuracy:.4g} %, its record has {100 * recorded:.4g} %"
    return scores


@cache
def _read(run: str, key: str) -> Scores | str:
    """What a file holds, in the order of its example ids; or why it cannot be read."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path = location(run) / "predictions" / f"{key}.parquet"
    try:
        content = io.BytesIO(path.read_bytes())
        # Not `read_table`, which takes nine times as long for so small a file.
        table = pyarrow.parquet.ParquetFile(content).read(["example_id", "gold", "predicted"])
        ids, gold, predicted = (
            _whole_numbers(table.column(name).combine_chunks()) for name in ("example_id", "gold", "predicted")
        )
    except FileNotFoundError:
        return "missing"
    except KeyError:  # of a column
        return "damaged: a column is missing"
    except (OSError, pyarrow.ArrowException, ValueError) as error:
        return f"damaged: {shorten(str(error), 100, placeholder=' …')}"
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if len(twice := ids[1:][ids[1:] == ids[:-1]]):
        return f"damaged: example {twice[0]} occurs twice"
    return Scores(ids, gold[order], (gold == predicted)[order].astype(np.float64))
