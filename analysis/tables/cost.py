"""What each method cost: trials, steps, tokens, time and memory."""

from dataclasses import dataclass

from analysis.cells import Group
from analysis.methods import method_label
from analysis.records import Trial
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count

_PEAK = (
    "Peak memory: that of the trial that used most, among trials that train alone. On a GPU it counts the tensors, on "
    "a CPU the whole process."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cost of one method; `sizes` counts its pairs of prompt length and rank in each cell."""

    method: str
    sizes: int
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
    rows = [_row(method, [trial for trial in trials if trial.method == method]) for method in methods]
    return Info(group=group, rows=tuple(row for row in rows if row.search + row.confirm))


def _row(method: str, trials: list[Trial]) -> Row:
    return Row(
        method=method,
        sizes=len({(trial.cell, trial.length, trial.rank) for trial in trials}),
        search=sum(trial.phase == "search" for trial in trials),
        confirm=sum(trial.phase == "confirm" for trial in trials),
        steps=sum(trial.steps or 0 for trial in trials),
        tokens=sum(trial.tokens or 0 for trial in trials),
        hours=_device_hours(trials),
        peak_memory_bytes=max((trial.peak_memory_bytes for trial in trials if trial.peak_memory_bytes), default=None),
    )


def _device_hours(trials: list[Trial]) -> float | None:
    """Add up the trials' times, which hold each one's own share of a shared pass; None if a record lacks them."""
    times = [trial.train_time_s for trial in trials] + [trial.evaluation_time_s for trial in trials]
    if None in times:
        return None
    return sum(time or 0.0 for time in [*times, *(trial.test_time_s for trial in trials)]) / 3600


def render(info: Info[Row]) -> Table:
    peak = Column(title="peak memory, GB", text=lambda row: _gigabytes(row.peak_memory_bytes))
    has_peaks = any(row.peak_memory_bytes for row in info.rows)
    trials_per_size = {row.search / row.sizes for row in info.rows}
    return Table.from_rows(
        info.rows,
        caption=f"What each method cost: {info.group.title}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            Column(title="sizes", text=lambda row: count(row.sizes)),
            Column(title="search trials", text=lambda row: count(row.search)),
            Column(
                title="search trials per size",
                csv_name="trials per size",
                text=lambda row: f"{row.search / row.sizes:.1f}",
            ),
            Column(title="confirm trials", text=lambda row: count(row.confirm)),
            Column(title="training steps", csv_name="steps", text=lambda row: count(row.steps)),
            Column(title="tokens", text=lambda row: count(row.tokens)),
            Column(title="device-hours", text=lambda row: _format_hours(row.hours)),
            *([peak] if has_peaks else []),
        ),
        notes=(
            "A size is one prompt length and rank. "
            + (
                "Every size was tuned with the same number of trials."
                if len(trials_per_size) == 1
                else "The sizes were not all tuned with the same number of trials, so compare their costs with care."
            ),
            "Device-hours: the time that a GPU, or a machine without one, spent in training steps and evaluations, "
            "without loading and waiting. Trials that share a pass share its time by tokens.",
            _PEAK if has_peaks else "",
        ),
    )


def _format_hours(hours: float | None) -> str:
    if hours is None:
        return "–"
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:.2f}"


def _gigabytes(memory: int | None) -> str:
    return "–" if memory is None else f"{memory / 1e9:.2f}"


SPEC = TableSpec(name="cost", title="What each method cost", info=compute, render=render, place=140)
