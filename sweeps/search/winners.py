"""The winners among the search trials. Confirm trials train each winner again with fresh seeds."""

from collections.abc import Iterable

from lopt.config import key_of_values
from lopt.records import TrialRecord


def winner(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the search trial to confirm; None if no trial has a score.

    The winner is the complete trial with the best score, and among equal scores the one with the lowest loss. The score
    is that on the whole held-out part. Records of earlier versions lack it, and one without it has all of them compared
    by their best evaluation. If there is no complete trial, the winner is the best of the stopped trials.
    """
    records = list(records)
    for status in ("complete", "stopped"):
        candidates = [record for record in records if record.status == status and record.selection_score is not None]
        if candidates and all(record.held_out_score is not None for record in candidates):
            return max(candidates, key=_sort_key_by_held_out_part)
        if candidates:
            return max(candidates, key=_sort_key_by_selection)
    return None


def _sort_key_by_held_out_part(record: TrialRecord) -> tuple[float, float, str]:
    return record.held_out_score or 0.0, -(record.held_out_loss or 0.0), record.key


def _sort_key_by_selection(record: TrialRecord) -> tuple[float, float, str]:
    return record.selection_score or 0.0, -(record.selection_loss or 0.0), record.key


def winners_confirm_trials(records: Iterable[TrialRecord]) -> list[tuple[str, TrialRecord]]:
    """Return the confirm trials of the present winners, each with its stratum.

    Confirm trials of former winners are left out, because a continued search may have found a better trial.
    """
    records = list(records)
    confirm_trials = []
    for stratum in dict.fromkeys(record.stratum or "" for record in records if record.phase == "search"):
        stratum_records = [record for record in records if (record.stratum or "") == stratum]
        winning_record = winner(record for record in stratum_records if record.phase == "search")
        if winning_record is not None:
            winning_key = _key_without_seed(winning_record)
            confirm_records = [record for record in stratum_records if record.phase == "confirm"]
            confirm_trials += [
                (stratum, record) for record in confirm_records if _key_without_seed(record) == winning_key
            ]
    return confirm_trials


def _key_without_seed(record: TrialRecord) -> str:
    """Return a key that trials share if only their seeds differ, even across versions of this program."""
    return key_of_values({**record.config, "seed": 0})
