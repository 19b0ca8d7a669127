"""Which search trial of a cell won: the rule of `sweeps.search.winners`, on the trials of a report."""

from collections.abc import Iterable

from analysis.records import Trial


def possible_winners(trials: Iterable[Trial]) -> list[Trial]:
    """Return the search trials that could be the winner of their cell, the winner first, by the rule of
    `sweeps.search.winners.winner`."""
    ended_trials = [trial for trial in trials if trial.phase == "search" and trial.status in ("complete", "stopped")]
    candidates = [trial for trial in ended_trials if trial.selection_score is not None]
    uses_held_out_part = all(trial.has_held_out_score for trial in candidates if trial.status == "complete")

    def sort_key(trial: Trial) -> tuple[bool, float, float, str]:
        score, loss = trial.evaluation_score, trial.evaluation_loss
        if uses_held_out_part and trial.status == "complete":
            score, loss = trial.selection_score, trial.selection_loss
        return trial.status == "complete", score or 0.0, -(loss or 0.0), trial.key

    return sorted(candidates, key=sort_key, reverse=True)
