"""What stands beside the numbers: state of the run, failures, frozen runs, caveats, how it was made."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from analysis import audit, predictions, published, render
from analysis.beside_published import comparable
from analysis.cells import Cell, Group
from analysis.comparisons import full_prompt
from analysis.load import Results
from analysis.methods import method_label
from analysis.records import Trial, grouped
from analysis.runs import Run
from lopt.settings import METRICS

_APART = "make a report of each run by itself"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Failed trials of one exception type."""

    type: str
    count: int
    example: str
    cells: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Provenance:
    run: str
    status: str
    command: str
    facts: tuple[tuple[str, str], ...]


def warnings(results: Results, groups: Sequence[Group]) -> list[str]:
    """What a reader must know before the first number."""
    found = []
    cells = [cell for group in groups for cell in group.cells if cell.planned]
    confirmed = sum(cell.accuracy is not None for cell in cells)
    unfinished = [run.name for run in results.runs if run.status != "complete"]
    if unfinished:
        several = f"{', '.join(unfinished)} {'is' if len(unfinished) == 1 else 'are'}"
        which = "the run is" if len(results.runs) == 1 else several
        found.append(f"{which} not finished: {confirmed} of {len(cells)} cells have a confirmed trial.")
    elif confirmed < len(cells):
        found.append(f"The run is complete, but only {confirmed} of {len(cells)} cells have a confirmed trial.")
    found += filter(None, (_few_seeds(results, group, len(groups) > 1) for group in groups if not unfinished))
    missing = [f"{run.name}/trials" for run in results.runs if not _has_trials(run)]
    if not results.trials:
        found.append("There is no readable trial record yet.")
    if missing:
        found.append(
            f"Missing: {', '.join(missing)}, where the records of the trials lie, one JSON file each; trials.parquet "
            "is made from them and not read."
        )
    if results.unreadable:
        kind = "record" if any("/trials/" in text for text in results.unreadable) else "file"
        count, (s, are) = len(results.unreadable), ("s", "are") if len(results.unreadable) > 1 else ("", "is")
        found.append(f"{count} {kind}{s} could not be read and {are} left out: {'; '.join(results.unreadable)}.")
    found += [text for group in groups if (text := _without_predictions(group, len(groups) > 1))]
    if waiting := [_labelled(groups, g, c) for g in groups for c in g.confirmed if not c.winner_is_confirmed]:
        found.append(
            f"The search has found a better setting than the confirmed one, and that has no confirmed trial: "
            f"{', '.join(waiting)}. The numbers are of the earlier setting."
        )
    for group in groups:
        found += filter(None, (_other_examples(group), _other_weights(group), _other_metrics(group)))
    made_by_runs = [run.manifest.get("provenance") or {} for run in results.runs]
    if any(made.get("dirty") for made in made_by_runs) or any(t.dirty for t in results.trials):
        found.append("Unclean working tree: some of these numbers were made with uncommitted changes to the code.")
    commits = {t.commit for t in results.trials if t.commit}
    if len(commits) > 1:
        found.append(f"The trials were made with {len(commits)} different commits of the code.")
    return [text[0].upper() + text[1:] for text in found]


def _without_predictions(group: Group, several: bool) -> str | None:
    """The files of predictions that cannot be used, and what of the report that changes."""
    unusable = predictions.unusable([trial for cell in group.confirmed for trial in cell.confirmed])
    if not unusable:
        return None
    keys, full = {each.trial.key for each in unusable}, full_prompt(group)
    hit = [cell for cell in group.confirmed if any(trial.key in keys for trial in cell.confirmed)]
    effects = []
    if wider := [cell.label for cell in hit if len(cell.confirmed) > 1]:
        effects.append(f"intervals come from the seeds' accuracies alone ({', '.join(wider)})")
    if full and len(full.confirmed) > 1:
        untested = [cell.label for cell in (group.confirmed if full in hit else hit) if cell is not full]
        if untested:
            effects.append(f"there is no test, and no verdict, against the full prompt ({', '.join(untested)})")
    if len(group.confirmed) > 1:
        effects.append("how sure the frontier is comes from each cell's own interval")
    where = f" of {group.title}" if several else ""
    files = "; ".join(dict.fromkeys(f"{each.file} ({each.why})" for each in unusable))
    return f"Predictions{where} that cannot be used: {files}. Without them {'; '.join(effects) or 'nothing changes'}."


def failures(groups: Sequence[Group]) -> list[Failure]:
    """Failed trials by exception type, most frequent first."""
    failed = [(group, t) for group in groups for t in group.trials if t.status == "failed"]
    by_type = grouped(failed, lambda each: each[1].error_type or "unknown")
    return [
        Failure(
            type=kind,
            count=len(some),
            example=some[0][1].error_message or "",
            cells=tuple(dict.fromkeys(_cell(groups, group, trial) for group, trial in some)),
        )
        for kind, some in sorted(by_type.items(), key=lambda item: -len(item[1]))
    ]


def frozen(groups: Sequence[Group]) -> list[str]:
    """Trials that predicted one class, or the same of every example, at every evaluation: training did nothing."""
    return [
        f"{_cell(groups, group, t)}, learning rate {render.number(t.learning_rate)}, seed {t.seed} "
        f"({t.phase}, {t.status}, {t.key})"
        for group in groups
        for t in group.trials
        if t.frozen
    ]


def _cell(groups: Sequence[Group], group: Group, trial: Trial) -> str:
    """The label of a trial's cell, and of several groups which one it is of."""
    return _labelled(groups, group, next(c for c in group.cells if any(own is trial for own in c.trials)))


def _labelled(groups: Sequence[Group], group: Group, cell: Cell) -> str:
    return cell.label if len(groups) == 1 else f"{cell.label} on {group.title}"


def _has_trials(run: Run) -> bool:
    """A sweep that has only begun has no folder of trials either, and misses none."""
    begun = run.status != "complete" and not (run.path / "trials.parquet").is_file()
    return begun or (run.path / "trials").is_dir()


def _few_seeds(results: Results, group: Group, several: bool) -> str | None:
    """Cells of complete runs that have fewer confirmed seeds than were to be trained, of which no failure speaks."""
    counts = [(run.manifest.get("space") or {}).get("confirm_seeds") for run in results.runs]
    wanted = min((count for count in counts if isinstance(count, int)), default=0)
    few = [cell for cell in group.confirmed if cell.planned and len(cell.confirmed) + cell.lost < wanted]
    if not few:
        return None
    where = f" of {group.title}" if several else ""
    said = ", ".join(f"{cell.label} ({len(cell.confirmed)})" for cell in few)
    return f"Fewer confirmed seeds than the {wanted} that were to be trained{where}: {said}."


def _other_examples(group: Group) -> str | None:
    """Of pooled runs: which cells were scored on other test examples than others, so that no difference is theirs."""
    parts = grouped(group.confirmed, lambda cell: cell.confirmed[0].scored_on).values()
    if len(parts) < 2:
        return None
    said = "; ".join(f"{examples(cells[0].confirmed[0])} ({', '.join(c.label for c in cells)})" for cells in parts)
    return (
        f"{group.title}: not all cells were scored on the same test examples: {said}. A difference between them may "
        f"come of that alone: {_APART}."
    )


def examples(trial: Trial) -> str:
    """What a confirmed trial was scored on."""
    return (
        f"{trial.test_n or 0:,} of the {trial.test_split_size or trial.test_n or 0:,} examples of {trial.test_split}, "
        f"data {trial.data_revision or 'of an unknown revision'}"
    )


def _other_weights(group: Group) -> str | None:
    """Of pooled runs: a folder that held another model in some of them."""
    confirmed = group.confirmed if Path(group.backbone).is_absolute() else ()
    parts = grouped(confirmed, lambda cell: cell.confirmed[0].model_revision or "unknown")
    if len(parts) < 2:
        return None
    said = "; ".join(f"{revision} ({', '.join(cell.label for cell in cells)})" for revision, cells in parts.items())
    return (
        f"{group.title}: the folder of the backbone held other weights for some cells than for others: {said}. A "
        f"difference between them may come of that alone: {_APART}."
    )


def _other_metrics(group: Group) -> str | None:
    """Of pooled runs: that what chooses their cells is not one score."""
    names = sorted({METRICS.get(trial.metric, trial.metric) for trial in group.trials})
    if len(names) < 2:
        return None
    return (
        f"{group.title}: trials are selected by different metrics ({', '.join(names)}), so that neither the choice of "
        f"cells nor the answer holds: {_APART}."
    )


def _selected_by(group: Group) -> str | None:
    """What selects, where that is not accuracy in all its trials."""
    names = sorted({METRICS.get(trial.metric, trial.metric) for trial in group.trials} - {METRICS["accuracy"]})
    if not names:
        return None
    if any(trial.metric == "accuracy" for trial in group.trials) or len(names) > 1:
        return (
            f"{group.title}: some trials are selected by {' or '.join(names)} on the selection data, others by another "
            "metric. These scores cannot be compared: make a report of each run by itself."
        )
    return (
        f"{group.title}: steps, trials and settings are selected by {names[0]} on the selection data. What this page "
        f"calls their selection accuracy is {names[0]}; test accuracy is accuracy, and so is optimism."
    )


def notes(results: Results, groups: Sequence[Group]) -> Iterator[str]:
    """How the numbers were made and what they cannot say."""
    confirmed = [trial for trial in results.trials if trial.confirmed]
    for protocol in dict.fromkeys(t.protocol for t in results.trials if t.protocol):
        yield f"Protocol: {protocol}"
    for group in groups:
        if group.shots is not None:
            yield (
                f"{group.title}: few-shot runs (shots = {group.shots}). They are not compared with the published "
                "numbers, which come from all of the training data."
            )
        if said := _selected_by(group):
            yield said
    for cell, label in [(c, _labelled(groups, g, c)) for g in groups for c in g.confirmed if c.settings_confirmed > 1]:
        yield (
            f"{label}: {cell.settings_confirmed} settings have confirmed trials, for the search has had other winners "
            f"before. The numbers are of the one that did best in the search, at learning rate "
            f"{render.number(cell.confirmed[0].learning_rate)}."
        )
    for run in results.runs:
        own = [trial for trial in results.trials if trial.run == run.shown]
        if said := audit.text(audit.audit(own, run.rungs[0] if run.rungs else None)):
            yield said if len(results.runs) == 1 else f"{run.name}: {said}"
    if sources := [trial.reused_from for trial in results.trials if trial.reused_from is not None]:
        yield f"{len(sources):,} trials were not run for this sweep but taken from {', '.join(sorted({*sources}))}."
    draws = {
        (method_label(trial.method), trial.frozen_draw)
        for group in groups
        for cell in group.confirmed
        for trial in cell.confirmed
        if trial.frozen_draw and len(cell.confirmed) > 1
    }
    for method, draw in sorted(draws, key=str):
        yield (
            f"{method}: one frozen random matrix for all seeds ({draw}), so that intervals over seeds leave "
            "out its draw: they are of this matrix."
        )
    if any(group.task == "movie_snippets" for group in groups):
        yield (
            "movie_snippets shares 84 % of SST-2's validation sentences: results on the two are never independent "
            "evidence, and a prompt trained on one must not be scored on the other."
        )
    subsets = {
        (group.task_title, t.test_split, t.test_n, t.test_split_size)
        for group in groups
        for t in group.trials
        if t.confirmed and t.test_n and t.test_split_size and t.test_n < t.test_split_size
    }
    for task, split, n, size in sorted(subsets, key=str):
        yield f"{task} was scored on {n:,} of the {size:,} examples of its {split} split."
    if any(trial.truncated for trial in confirmed):
        cut, scored = sum(t.test_truncated for t in confirmed), sum(t.test_n or 0 for t in confirmed)
        others = sum(t.truncated for t in confirmed) > cut
        yield (
            f"Texts longer than the input were cut: {cut:,} of {scored:,} test examples of confirmed trials"
            f" ({100 * cut / scored:.1f} %){', and some to train or to select on' * others}."
        )
    if results.left_out:
        yield f"{results.left_out} trials are of cells or ranges that the space no longer has, and are left out."
    if results.superseded:
        yield f"{results.superseded} earlier failures were tried again since and are not counted."
    if results.repeated:
        conflict = f", of which {results.differing} have other results: the run that is named first counts"
        yield (
            f"Records of trials that another record is of, too, which are not counted again: {results.repeated}"
            f"{conflict if results.differing else ''}."
        )


def caveats(groups: Sequence[Group], shown: bool) -> tuple[str, ...]:
    """What to know of the published numbers, where a table shows them or a group has points to compare with."""
    return published.CAVEATS if shown or any(comparable(group) for group in groups) else ()


def _time(run: Run) -> str | None:
    """What the run took, all its commands together, beside what was predicted."""
    predicted = run.prediction
    if not predicted:
        return render.duration(run.elapsed_s) if run.elapsed_s else None
    low, high = render.duration(predicted.low_s), render.duration(predicted.high_s)
    spent = (run.elapsed_s or 0.0) - predicted.elapsed_before_s
    actual = f"took {render.duration(spent)}{'' if run.status == 'complete' else ' so far'}"
    return (
        f"predicted {low} to {high}, {actual if spent > 0 else 'not begun since'}; "
        f"started with {predicted.trials_done} of {predicted.trials} trials"
    )


def _moment(written: object) -> object:
    """A time to the second."""
    try:
        return datetime.fromisoformat(str(written)).isoformat(" ", "seconds")
    except ValueError:
        return written


def provenance(run: Run) -> Provenance:
    manifest = run.manifest
    made = manifest.get("provenance") or {}
    command = manifest.get("command") or []
    space = manifest.get("space") or {}
    dirty = ", unclean working tree" if made.get("dirty") else ""
    facts = {
        "space": " ".join(str(space[key]) for key in ("name", "profile") if space.get(key)),
        "trials per cell": space.get("trials_per_cell"),
        "confirm seeds": space.get("confirm_seeds"),
        "started": _moment(manifest.get("started_at")),
        "updated": _moment(manifest.get("updated_at")),
        "time": _time(run),
        "commit": f"{made.get('commit') or 'unknown'}{dirty}",
        **{f"hardware: {key}": value for key, value in (made.get("hardware") or {}).items()},
        **{f"version: {key}": value for key, value in (made.get("versions") or {}).items()},
    }
    return Provenance(
        run=run.name,
        status=run.status,
        command=shlex.join(map(str, command)) if isinstance(command, list) else str(command),
        facts=tuple((key, str(value)) for key, value in facts.items() if value not in (None, "")),
    )
