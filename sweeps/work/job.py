"""A trial as it is sent to the process that trains it, and names in its reports (see `sweeps.work.execution`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lopt.config import TrialConfig

# A trial beyond its time limit has this long to come to an evaluation. A step that takes longer counts as hanging.
HANG_S = 60.0
SCORE, STEP = "selection_score", "step"  # keys of a report: the score that trials compete by, and the evaluated step

Report = dict[str, Any]  # JSON; see `sweeps.work.execution.Execution`


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One trial to run, and how to run it.

    Attributes:
        cell, stratum: Where the trial belongs in its space.
        out, run: The location of all runs and the name of the run; together they name its store.
        shared: Whether the trial shares its backbone with other trials on its device.
        packed: How many trials share a backbone at most.
        threads: Number of processor threads; None leaves PyTorch's own choice.
        limit_s: A trial that takes longer than this fails at its next evaluation; None sets no limit.
    """

    config: TrialConfig
    phase: str
    cell: str
    stratum: str
    out: str
    run: str
    shared: bool = False
    threads: int | None = None
    packed: int = 1
    limit_s: float | None = None

    @cached_property
    def key(self) -> str:
        """The key of the trial."""
        return self.config.key

    def to_dict(self) -> dict[str, Any]:
        """The job as JSON, as Ray Tune hands it to the trial's process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "config": self.config.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """The inverse of `to_dict`."""
        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})

    def __str__(self) -> str:
        """The trial in a few words, for a progress line."""
        config, name = self.config, self.cell
        if name == "search":
            name += f": {config.method} n={config.length}" + (f" r={config.rank}" if config.rank else "")
        return f"{self.phase} {name}, lr {config.learning_rate:.3g}"


def overdue_message(limit_s: float, where: str) -> str:
    """The error message of a trial beyond its time limit; `where` says how far it had come ("was at step 4")."""
    return f"it took longer than {limit_s:,.0f} s (--max-trial-time), and {where}"
