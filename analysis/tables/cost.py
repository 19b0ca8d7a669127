"""What each method cost: trials, steps, tokens, time and memory."""

from dataclasses import dataclass

from analysis.cells import Group
from analysis.methods import method_label
from analysis.records import Trial
from analysis.registry import Info, Missing, TableSpec
from analysis.render import Column, Table, count

_PEAK_MEMORY_NOTE = (
    "Peak memory is that of the trial that used most. It is known only for trials that train alone. On a GPU it counts "
    "the tensors; on a CPU it counts the whole process."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The cost of one method. `size_count` counts its sizes, the pairs of prompt length and rank, in each cell anew."""

    method: str
    size_count: int
    search_trial_count: int
    confirm_trial_count: int
    steps: int
    tokens: int
    device_hours: float | None
    peak_memory_bytes: int | None


def compute(group: Group) -> Info[Row] | Missing:
    trials = [trial for trial in group.trials if trial.status != "failed"]
    if not trials:
        return Missing("no trial has ended yet")
    methods = dict.fromkeys(cell.method for cell in group.cells)
    rows = [_method_row(method, [trial for trial in trials if trial.method == method]) for method in methods]
    return Info(group=group, rows=tuple(row for row in rows if row.search_trial_count + row.confirm_trial_count))


def _method_row(method: str, trials: list[Trial]) -> Row:
    return Row(
        method=method,
        size_count=len({(trial.cell, trial.length, trial.rank) for trial in trials}),
        search_trial_count=sum(trial.phase == "search" for trial in trials),
        confirm_trial_count=sum(trial.phase == "confirm" for trial in trials),
        steps=sum((trial.steps or 0) + (trial.abandoned_steps or 0) for trial in trials),
        tokens=sum(trial.tokens or 0 for trial in trials),
        device_hours=_device_hours(trials),
        peak_memory_bytes=max((trial.peak_memory_bytes for trial in trials if trial.peak_memory_bytes), default=None),
    )


def _device_hours(trials: list[Trial]) -> float | None:
    """Return the sum of the trials' times in hours, or None if a record lacks them.

    If trials shared a pass, each trial counts its share of the time of that pass.
    """
    times_s = [trial.train_time_s for trial in trials] + [trial.evaluation_time_s for trial in trials]
    if None in times_s:
        return None
    return sum(time_s or 0.0 for time_s in [*times_s, *(trial.test_time_s for trial in trials)]) / 3600


def render(info: Info[Row]) -> Table:
    peak_memory_column = Column(title="peak memory, GB", text=lambda row: _format_gigabytes(row.peak_memory_bytes))
    has_peak_memory = any(row.peak_memory_bytes for row in info.rows)
    trials_per_size_values = {row.search_trial_count / row.size_count for row in info.rows}
    return Table.from_rows(
        info.rows,
        caption=f"What each method cost: {info.group.title}",
        columns=(
            Column(title="method", align="left", text=lambda row: method_label(row.method)),
            Column(title="sizes", text=lambda row: count(row.size_count)),
            Column(title="search trials", text=lambda row: count(row.search_trial_count)),
            Column(
                title="search trials per size",
                csv_name="trials per size",
                text=lambda row: f"{row.search_trial_count / row.size_count:.1f}",
            ),
            Column(title="confirm trials", text=lambda row: count(row.confirm_trial_count)),
            Column(title="training steps", csv_name="steps", text=lambda row: count(row.steps)),
            Column(title="tokens", text=lambda row: count(row.tokens)),
            Column(title="device-hours", text=lambda row: _format_hours(row.device_hours)),
            *([peak_memory_column] if has_peak_memory else []),
        ),
        notes=(
            "A size is one prompt length and rank. "
            + (
                "Every size was tuned with the same number of trials."
                if len(trials_per_size_values) == 1
                else "The sizes were not all tuned with the same number of trials, so compare their costs with care."
            ),
            "Device-hours are the time that a GPU, or a machine without one, spent on training steps and evaluations. "
            "Loading and waiting are not included. The time of a pass that trials share is divided among them in "
            "proportion to their tokens.",
            _PEAK_MEMORY_NOTE if has_peak_memory else "",
        ),
    )


def _format_hours(hours: float | None) -> str:
    if hours is None:
        return "–"
    return "< 0.01" if 0 < hours < 0.01 else f"{hours:.2f}"


def _format_gigabytes(memory_bytes: int | None) -> str:
    return "–" if memory_bytes is None else f"{memory_bytes / 1e9:.2f}"


SPEC = TableSpec(name="cost", title="What each method cost", info=compute, render=render, place=140)
