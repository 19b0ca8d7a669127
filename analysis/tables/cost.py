"""What each method cost: trials, steps, tokens, time, memory."""

from dataclasses import dataclass

from analysis.cells import Group
from analysis.methods import method_label
from analysis.records import Trial
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count

_PEAK = (
    "Peak memory: of the trial that took most, where trials train alone: on a GPU of its tensors, on a CPU of its "
    "process."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    method: str
    cells: int
    search: int
    confirm: int
    steps: int
    tokens: int
    hours: float | None
    peak_memory_bytes: int | None


def compute(group: Group) -> Info[Row] | Missing:
    trials = [trial for trial in group.trials if trial.status != "failed"]
    if not trials:
        return Missing("no trial has ended yet")
    methods = dict.fromkeys(cell.method for cell in group.cells)
    rows = [_row(method, [t for t in trials if t.method == method]) for method in methods]
    return Info(group=group, rows=tuple(row for row in rows if row.search + row.confirm))


def _row(method: str, trials: list[Trial]) -> Row:
    return Row(
        method=method,
        cells=len({(t.cell, t.length, t.rank) for t in trials}),
        search=sum(t.phase == "search" for t in trials),
        confirm=sum(t.phase == "confirm" for t in trials),
        steps=sum(t.steps or 0 for t in trials),
        tokens=sum(t.tokens or 0 for t in trials),
        hours=_hours(trials),
        peak_memory_bytes=max((t.peak_memory_bytes for t in trials if t.peak_memory_bytes), default=None),
    )


def _hours(trials: list[Trial]) -> float | None:
    """Of devices, each trial's share of a pass counted once; None where records do not say."""
    times = [t.train_time_s for t in trials] + [t.evaluation_time_s for t in trials]
    if None in times:
        return None
    return sum(time or 0.0 for time in [*times, *(t.test_time_s for t in trials)]) / 3600


def render(info: Info[Row]) -> Table:
    peak = Column(title="peak memory, GB", text=lambda row: _gigabytes(row.peak_memory_bytes))
    peaks_known = any(row.peak_memory_bytes for row in info.rows)
    a_cell = {row.search / row.cells for row in info.rows}
    return Table.of(
        info.rows,
        caption=f"What it cost: {info.group.title}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            Column(title="sizes", text=lambda row: count(row.cells)),
            Column(title="search trials", text=lambda row: count(row.search)),
            Column(title="trials per size", text=lambda row: f"{row.search / row.cells:.1f}"),
            Column(title="confirm trials", text=lambda row: count(row.confirm)),
            Column(title="steps", text=lambda row: count(row.steps)),
            Column(title="tokens", text=lambda row: count(row.tokens)),
            Column(title="device-hours", text=lambda row: _shown(row.hours)),
            *([peak] if peaks_known else []),
        ),
        notes=(
            "Every size was tuned with the same number of trials."
            if len(a_cell) == 1
            else "Mind that the sizes were not all tuned with the same number of trials.",
            "Device-hours: of GPUs, or of a machine without one, in training steps and evaluations; a pass that trials "
            "share is divided among them by tokens. Loading and waiting are left out.",
            _PEAK if peaks_known else "",
        ),
    )


def _shown(hours: float | None) -> str:
    if hours is None:
        return "–"
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:.2f}"


def _gigabytes(memory: int | None) -> str:
    return "–" if memory is None else f"{memory / 1e9:.2f}"


SPEC = TableSpec(name="cost", title="What it cost", info=compute, render=render, place=140)
