"""Which test examples each confirmed trial got right, from the predictions that it left beside its record."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from analysis.records import Trial
from lopt.places import place

if TYPE_CHECKING:
    import numpy as np
    import pyarrow

_SAME = 1e-9  # accuracy of the predictions beside that of the record


def correct(trials: Sequence[Trial]) -> np.ndarray | None:
    """1 where a trial was right on an example, `[trials, examples]`; None unless all left predictions, of the same
    examples, that give the accuracies of their records."""
    import numpy as np

    found = [_correct(trial.run, trial.key) for trial in trials]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(trials):
        return None
    ids, rows = known[0][0], [each[1] for each in known]
    same = all(np.array_equal(each[0], ids) for each in known)
    honest = all(abs(float(row.mean()) - (t.test_accuracy or 0.0)) < _SAME for row, t in zip(rows, trials, strict=True))
    return np.stack(rows) if same and honest else None


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


@cache
def _correct(run: str, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Example ids and whether the prediction was right, in the order of the ids; None without readable predictions."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet

    path = place(run) / "predictions" / f"{key}.parquet"
    try:
        content = io.BytesIO(path.read_bytes())
        # Not `read_table`, which takes nine times as long for so small a file.
        table = pyarrow.parquet.ParquetFile(content).read(["example_id", "gold", "predicted"])
        ids, gold, predicted = (_whole_numbers(table.column(name).combine_chunks()) for name in table.column_names)
    except (OSError, pyarrow.ArrowException, ValueError):  # the last where a column is missing, or of another form
        return None
    order = np.argsort(ids, kind="stable")
    return ids[order], (gold == predicted)[order].astype(np.float64)
