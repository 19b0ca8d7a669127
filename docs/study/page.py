"""Write the results of the study into README.md beside this file, from the records in run/: python docs/study/page.py

The section between the two markers is replaced. A test checks that it is what the records give.
"""

import sys
from pathlib import Path
from statistics import fmean, stdev

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis import render
from analysis.cells import Group, groups
from analysis.comparisons import courses, reference_cell
from analysis.headline import headline
from analysis.load import Results, load
from analysis.looks_text import ending_sentences, look_sentence
from analysis.registry import Missing
from analysis.tables import looks

HERE = Path(__file__).resolve().parent
RUN = HERE / "run"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def results_text() -> str:
    """Return the section on the results, as Markdown."""
    results = load([RUN])
    (group,) = groups(results)
    status, elapsed_s = results.runs[0].status, results.runs[0].elapsed_s or 0.0
    status_text = "complete" if status == "complete" else "not complete: the same command continues it"
    lines = [
        "## Results so far" if status != "complete" else "## Results",
        "",
        f"{len(results.trials)} trials, in {elapsed_s / 3600:.1f} hours. The run is {status_text}.",
        "",
        *_search_rows(results),
        "",
        *(_seed_rows(group) if group.confirmed_cells else ["No cell is confirmed yet."]),
        "",
    ]
    if len(group.confirmed_cells) < len(group.cells):
        return "\n".join([*lines, "The first look comes when each cell has the seeds of that look.", ""])
    sentences = [*filter(None, [look_sentence(group)]), *ending_sentences(group)]
    lines += [f"{sentence[0].upper()}{sentence[1:]}\n" for sentence in sentences]
    if courses(group) and any(course.looks for course in courses(group).all):
        lines += [headline(group).answer, ""]
    table = looks.compute(group)
    if not isinstance(table, Missing):
        lines += [render.markdown(looks.render(table)), ""]
    return "\n".join(lines)


def _search_rows(results: Results) -> list[str]:
    """Return a table of the search trials: learning rate, and accuracy on the held-out sentences."""
    rows = ["| cell | search trials: learning rate, held-out accuracy in % |", "|---|---|"]
    for cell in results.runs[0].cells:
        trials = [trial for trial in results.trials if (trial.cell, trial.phase) == (cell.name, "search")]
        texts = [
            f"{trial.learning_rate:.3g}: {100 * (trial.selection_accuracy or 0.0):.1f}"
            + (f" ({trial.status} at step {trial.steps})" if trial.status != "complete" else "")
            for trial in sorted(trials, key=lambda trial: (trial.learning_rate or 0.0, trial.key))
        ]
        rows.append(f"| {cell.name} | {'; '.join(texts) or 'none yet'} |")
    return rows


def _seed_rows(group: Group) -> list[str]:
    """Return a table of the confirmed seeds of each cell."""
    rows = [
        "| cell | parameters | seeds | test accuracy, % | spread (sd), pp | restarts |",
        "|---|---|---|---|---|---|",
    ]
    reference = reference_cell(group)
    for cell in group.confirmed_cells:
        accuracies = [100 * (trial.test_accuracy or 0.0) for trial in cell.confirmed_trials]
        spread = f"{stdev(accuracies):.1f}" if len(accuracies) > 1 else "–"
        restarts = sum(bool(trial.abandoned_steps) for trial in cell.confirmed_trials)
        values = f"{fmean(accuracies):.1f}: " + ", ".join(f"{value:.1f}" for value in accuracies)
        label = f"{cell.label} (reference)" if cell is reference else cell.label
        rows.append(
            f"| {label} | {cell.trainable_parameters:,} | {len(accuracies)} | {values} | {spread} | {restarts} |"
        )
    return rows


def page_with_results(page: str) -> str:
    """Return the page with its section on the results written anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{results_text().rstrip()}\n\n{END}{after}"


if __name__ == "__main__":
    path = HERE / "README.md"
    path.write_text(page_with_results(path.read_text()))
