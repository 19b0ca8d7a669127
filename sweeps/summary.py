"""The last words of a sweep, and the exit code that goes with them."""

from collections import Counter
from collections.abc import Collection

from lopt import commands
from lopt.errors import cut_short
from lopt.exit_codes import BUDGET, COMPLETE, INCOMPLETE, INTERRUPTED
from lopt.locations import display_path
from lopt.records import TrialRecord
from sweeps.planning.plan import Plan
from sweeps.progress import clock
from sweeps.results.store import Store
from sweeps.search.winners import confirmed_winners


def of(
    plan: Plan, store: Store, status: str, *, seconds: float, left_out: Collection[str] = (), fresh: bool = False
) -> tuple[str, int]:
    """What a sweep of `seconds` leaves behind, in lines, and its exit code.

    status: "complete" when nothing was left to start, "stopped" at a budget, "interrupted". left_out: keys of trials
    that do not count. fresh: the command began the run anew, and would again.
    """
    again = "the same command without --fresh" if fresh else "the same command"
    records = [record for record in store.records() if record.key not in left_out]
    counts = Counter(record.status for record in records)
    kinds = ", ".join(f"{n} {name}" for name, n in sorted(counts.items())) or "none"
    lines = [f"{status}: {len(records)} trials ({kinds}) in {clock(seconds)}; results in {store}"]
    lines += _failures(store, [record for record in records if record.status == "failed"], again)
    if status == "interrupted":
        return "\n".join([*lines, f"{again} continues; finished trials are kept"]), INTERRUPTED
    if status == "stopped":
        lines.append(f"stopped at a budget; {again} continues, unfinished trials from their last evaluation")
        return "\n".join(lines), BUDGET
    missing = _unconfirmed(plan, records)
    if missing:
        lines.append(f"no confirmed trial: {', '.join(missing)}")
    lines.append(f"report: {commands.line('report', store)}")
    return "\n".join(lines), INCOMPLETE if counts["failed"] or missing else COMPLETE


def _failures(store: Store, failed: list[TrialRecord], again: str) -> list[str]:
    """Failed trials by what they raised, most frequent first, each with the command that runs one of them again."""
    kinds: dict[str, list[TrialRecord]] = {}
    for record in failed:
        kinds.setdefault(str((record.error or {}).get("type")), []).append(record)
    lines = [f"failed; {again} tries them again:"] if failed else []
    for kind, some in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
        message = " ".join(str((some[0].error or {}).get("message")).split())
        lines.append(f"  {len(some)} × {kind}: {cut_short(message)}")
        lines.append(
            f"    to see one: {commands.line('lopt', 'run', '--config', display_path(store.path(some[0].key)))}"
        )
    return lines


def _unconfirmed(plan: Plan, records: list[TrialRecord]) -> list[str]:
    """Cells (sizes, in a free search) of whose winner there is no confirmed trial."""
    confirmed = {stratum for stratum, record in confirmed_winners(records) if record.status == "complete"}
    if plan.space.by_size:
        able = {r.stratum or "" for r in records if r.phase == "search" and r.status in ("complete", "stopped")}
        return sorted(able - confirmed) or ([] if confirmed else ["any size"])
    return [cell.name for cell in plan.cells if cell.name not in confirmed]
