"""A job, which is one trial as it is sent to the process that trains it, and two keys of its reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lopt.config import TrialConfig

# When its time limit is over, a trial has this long to reach an evaluation. A step that takes longer counts as hanging.
HANG_S = 60.0
SCORE, STEP = "selection_score", "step"  # keys of a report: the score by which trials compete, and the evaluated step

Report = dict[str, Any]  # JSON; `sweeps.work.execution.Execution` lists its entries


@dataclass(frozen=True, eq=False, kw_only=True)
class Job:
    """One trial to run, and how to run it.

    Attributes:
        phase: "search" or "confirm".
        cell, stratum: The names of the trial's cell and stratum.
        out, run: The location of all runs, and the name of the run.
        shares_backbone: Whether the trial shares its backbone with other trials on its device.
        pack_size: The largest number of trials that share a backbone on a device.
        threads: Number of processor threads. If it is None, PyTorch chooses the number.
        limit_s: Time limit in seconds. A trial that takes longer fails at its next evaluation. None means no limit.
    """

    config: TrialConfig
    phase: str
    cell: str
    stratum: str
    out: str
    run: str
    shares_backbone: bool = False
    threads: int | None = None
    pack_size: int = 1
    limit_s: float | None = None

    @cached_property
    def key(self) -> str:
        """The key of the trial."""
        return self.config.key

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON, as Ray Tune hands it to the trial's process."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "config": self.config.to_dict()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Job:
        """Return the job that `to_dict` has turned into JSON."""
        return cls(**{**values, "config": TrialConfig.from_dict(values["config"])})

    def __str__(self) -> str:
        """Describe the trial in a few words, for a progress line."""
        config, name = self.config, self.cell
        if name == "search":
            name += f": {config.method} n={config.length}" + (f" r={config.rank}" if config.rank else "")
        return f"{self.phase} {name}, lr {config.learning_rate:.3g}"


def overdue_message(limit_s: float, how_far: str) -> str:
    """Return the error message of a trial that has exceeded its time limit.

    Args:
        how_far: How far the trial had come, such as "was at step 4".
    """
    return f"it took longer than {limit_s:,.0f} s (--max-trial-time), and {how_far}"
