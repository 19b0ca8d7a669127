"""The winners among the search trials. Confirm trials train each winner again with fresh seeds."""

from collections.abc import Iterable

from lopt.config import key_of_values
from lopt.records import TrialRecord


def winner(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the search trial to confirm; None if no trial has a score.

    The winner is the complete trial with the best score on the whole held-out part, and among equal scores the one with
    the lowest loss. If a complete trial lacks that score, because an earlier version trained it, all are compared by
    their best evaluations. If there is no complete trial, the winner is the best of the stopped trials.
    """
    records = list(records)
    for status in ("complete", "stopped"):
        candidates = [record for record in records if record.status == status and record.selection_score is not None]
        if candidates and all(record.held_out_score is not None for record in candidates):
            return max(candidates, key=lambda record: _sort_key(record, record.held_out_score, record.held_out_loss))
        if candidates:
            return max(candidates, key=lambda record: _sort_key(record, record.selection_score, record.selection_loss))
    return None


def _sort_key(record: TrialRecord, score: float | None, loss: float | None) -> tuple[float, float, str]:
    return score or 0.0, -(loss or 0.0), record.key


def winners_confirm_trials(records: Iterable[TrialRecord]) -> list[tuple[str, TrialRecord]]:
    """Return the confirm trials of the present winners, each with its stratum.

    Confirm trials of former winners are left out, because a continued search may have found a better trial. Where
    nothing was searched, all confirm trials count.
    """
    records = list(records)
    confirm_trials = []
    for stratum in dict.fromkeys(record.stratum or "" for record in records):
        stratum_records = [record for record in records if (record.stratum or "") == stratum]
        winning_record = winner(record for record in stratum_records if record.phase == "search")
        confirm_records = [record for record in stratum_records if record.phase == "confirm"]
        if len(confirm_records) == len(stratum_records):
            confirm_trials += [(stratum, record) for record in confirm_records]
        elif winning_record is not None:
            winning_key = _key_without_seed(winning_record)
            confirm_trials += [
                (stratum, record) for record in confirm_records if _key_without_seed(record) == winning_key
            ]
    return confirm_trials


def _key_without_seed(record: TrialRecord) -> str:
    """Return a key that trials share if only their seeds differ, even across versions of this program."""
    return key_of_values({**record.config, "seed": 0})
