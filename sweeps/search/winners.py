"""Which search trials have won, and are trained again with fresh seeds."""

from collections.abc import Iterable

from lopt.config import key_of
from lopt.records import TrialRecord


def winner(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The search trial to confirm: best by its metric, then lowest loss; a stopped one only if none completed."""
    records = list(records)
    for status in ("complete", "stopped"):
        able = [r for r in records if r.status == status and r.selection_score is not None]
        if able:
            return max(able, key=lambda r: (r.selection_score or 0.0, -(r.selection_loss or 0.0), r.key))
    return None


def confirmed_winners(records: Iterable[TrialRecord]) -> list[tuple[str, TrialRecord]]:
    """The confirm trials of the winners of today, each with its stratum; those of an earlier winner are left out."""
    records = list(records)
    confirmed = []
    for stratum in dict.fromkeys(r.stratum or "" for r in records if r.phase == "search"):
        own = [r for r in records if (r.stratum or "") == stratum]
        best = winner(r for r in own if r.phase == "search")
        if best is not None:
            confirmed += [(stratum, r) for r in own if r.phase == "confirm" and _unseeded(r) == _unseeded(best)]
    return confirmed


def _unseeded(record: TrialRecord) -> str:
    """The same of all seeds, also where one of them has been written by an earlier version."""
    return key_of({**record.config, "seed": 0})
