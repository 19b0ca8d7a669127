"""No early stopping: every trial runs to its end."""

from sweeps.stopping import StoppingRule


class NoStopping(StoppingRule):
    name = "none"

    def report(self, key: str, step: int, score: float) -> bool:
        return False

    def forget(self, key: str) -> None:
        pass

    def decision_steps(self, eval_every: int) -> list[int]:
        return []

    def description(self, stratum: str, eval_every: int) -> str:
        return "none: every trial runs to its end"


SPEC = NoStopping
