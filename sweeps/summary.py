"""The summary that a command prints at its end, and the exit code of the command."""

from collections import Counter
from collections.abc import Collection

from analysis.cells import groups
from analysis.load import load
from analysis.looks_text import ending_sentences
from lopt import commands
from lopt.errors import cut_after_word
from lopt.exit_codes import BUDGET_REACHED, COMPLETE, INTERRUPTED, SWEEP_INCOMPLETE
from lopt.locations import display_path
from lopt.records import TrialRecord
from sweeps.planning.plan import Plan
from sweeps.progress import format_duration
from sweeps.results.store import Store
from sweeps.search.winners import winners_confirm_trials


def summarise(
    plan: Plan, store: Store, status: str, *, elapsed_s: float, left_out_keys: Collection[str] = (), fresh: bool = False
) -> tuple[str, int]:
    """Return the summary of a sweep, as lines of text, and the exit code of its command.

    Args:
        status: "complete" if no trial was left to start, "stopped" if a budget was used up, or "interrupted".
        elapsed_s: How long the command took.
        left_out_keys: Keys of trials that do not count, because the space no longer has them.
        fresh: Whether the command has --fresh, in which case the same command would start the run over.
    """
    same_command = "the same command without --fresh" if fresh else "the same command"
    records = [record for record in store.records() if record.key not in left_out_keys]
    count_by_status = Counter(record.status for record in records)
    counts_text = ", ".join(f"{count} {name}" for name, count in sorted(count_by_status.items())) or "none"
    trials_text = "1 trial" if len(records) == 1 else f"{len(records)} trials"
    lines = [f"{status}: {trials_text} ({counts_text}) in {format_duration(elapsed_s)}; results in {store}"]
    lines += _failure_lines(store, [record for record in records if record.status == "failed"], same_command)
    if status == "interrupted":
        return "\n".join([*lines, f"{same_command} continues the run; finished trials are kept"]), INTERRUPTED
    if status == "stopped":
        lines.append(
            f"stopped at a budget; {same_command} continues the run, and unfinished trials go on from their last "
            "evaluation"
        )
        return "\n".join(lines), BUDGET_REACHED
    unconfirmed_names = _unconfirmed_names(plan, records)
    if unconfirmed_names:
        lines.append(f"no confirmed trial: {', '.join(unconfirmed_names)}")
    if plan.design:
        all_groups = groups(load([store.folder]))
        lines += [f"{group.title}: {text}" for group in all_groups for text in ending_sentences(group)]
    lines.append(f"report: {commands.command_line('report', store)}")
    return "\n".join(lines), SWEEP_INCOMPLETE if count_by_status["failed"] or unconfirmed_names else COMPLETE


def _failure_lines(store: Store, failed_records: list[TrialRecord], same_command: str) -> list[str]:
    """Return lines about the failed trials, grouped by the type of their error. The most frequent type comes first.

    For each type, one line gives a command that runs one of its trials again.
    """
    records_by_type: dict[str, list[TrialRecord]] = {}
    for record in failed_records:
        records_by_type.setdefault(str((record.error or {}).get("type")), []).append(record)
    lines = [f"some trials failed; {same_command} tries them again:"] if failed_records else []
    for error_type, records in sorted(records_by_type.items(), key=lambda item: -len(item[1])):
        message = " ".join(str((records[0].error or {}).get("message")).split())
        rerun_command = commands.command_line("lopt", "run", "--config", display_path(store.path(records[0].key)))
        lines.append(f"  {len(records)} × {error_type}: {cut_after_word(message)}")
        lines.append(f"    to reproduce one: {rerun_command}")
    return lines


def _unconfirmed_names(plan: Plan, records: list[TrialRecord]) -> list[str]:
    """Return the names of the cells (in a free search, of the sizes) whose winner has no complete confirm trial."""
    confirmed_strata = {stratum for stratum, record in winners_confirm_trials(records) if record.status == "complete"}
    if plan.space.by_size:
        search_records = [
            record for record in records if record.phase == "search" and record.status in ("complete", "stopped")
        ]
        unconfirmed_strata = {record.stratum or "" for record in search_records} - confirmed_strata
        return sorted(unconfirmed_strata) or ([] if confirmed_strata else ["every size"])
    return [cell.name for cell in plan.cells if cell.name not in confirmed_strata]
