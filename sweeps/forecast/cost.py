"""What a trial costs in time, as the simulation of a sweep needs it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a trial of one kind costs, in seconds."""

    stratum: str
    shares_device: bool  # whether the trial steps together with other trials on its device
    device_share: float  # the share of a device that the trial takes
    fixed_s: float  # the part of a step's time that counts once for all trials that step together
    step_s: float  # what this trial adds to a step's time; may be negative (see `measure`)
    evaluation_s: float  # time of one evaluation of the held-out examples
    begin_s: float  # time that the trial takes on its device before its first step
    score_s: float  # time to score a confirm trial on the reported split; meanwhile no trial on the device makes a step
    eval_every: int  # number of steps between evaluations
    min_step_s: float = 0.0  # no step takes less time
    held_out_s: float = 0.0  # time to score a complete trial on the whole held-out part; no trial makes a step either

    def final_s(self, phase: str) -> float:
        """Return how long scoring takes after the last step of a trial of this phase."""
        return self.held_out_s + (self.score_s if phase == "confirm" else 0.0)
