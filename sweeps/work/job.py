"""A trial as it is sent to the process that trains it, and the names in its reports (see `sweeps.work.execution`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lopt.config import TrialConfig

HANG_S = 60.0  # a trial that is out of time may take so long to come to an evaluation; a step that takes longer hangs
SCORE, STEP = "selection_score", "step"  # of a report: what trials compete by, and how far one has come

Report = dict[str, Any]  # JSON; see `sweeps.work.execution.Execution`


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One trial to run, and how.

    Attributes:
        cell, stratum: where it belongs in its space. out, run: its store.
        shared: whether it trains over a backbone that other trials on its device share, at most `packed` of them.
        threads: of the processor; None leaves them.
        limit_s: a trial that takes longer has failed, at its next evaluation; None for no limit.
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
        """The trial's."""
        return self.config.key

    def to_dict(self) -> dict[str, Any]:
        """JSON, as Ray Tune hands it to a trial's process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "config": self.config.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})

    def __str__(self) -> str:
        """The trial in a few words, for a line of progress."""
        config, name = self.config, self.cell
        if name == "search":
            name += f": {config.method} n={config.length}" + (f" r={config.rank}" if config.rank else "")
        return f"{self.phase} {name}, lr {config.learning_rate:.3g}"


def overdue(limit_s: float, where: str) -> str:
    """What is said of a trial that is out of time."""
    return f"it took longer than {limit_s:,.0f} s (--max-trial-time), and {where}"
