"""Write the results of the study from the records in run/: python docs/study/page.py

It draws accuracy.svg, and replaces the text between two markers in README.md beside this file and in the project's
README.md. Tests check that these texts are what the records give.
"""

import sys
import textwrap
from pathlib import Path
from statistics import fmean, stdev

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from analysis import render, style
from analysis.cells import Group, groups
from analysis.comparisons import cell_name, courses, reference_cell
from analysis.headline import headline
from analysis.load import Results, load
from analysis.looks_text import ending_sentences, look_sentence
from analysis.plots import pareto
from analysis.registry import Missing
from analysis.tables import looks

HERE = Path(__file__).resolve().parent
RUN, FIGURE = HERE / "run", HERE / "accuracy.svg"
STUDY_PAGE, PROJECT_PAGE = HERE / "README.md", HERE.parents[1] / "README.md"
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
        "![Test accuracy against trainable parameters, with 95 % intervals](accuracy.svg)",
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


def project_text() -> str:
    """Return the picture and the sentence for the project's README, as Markdown."""
    (group,) = groups(load([RUN]))
    seed_counts = sorted({len(cell.confirmed_trials) for cell in group.confirmed_cells})
    seeds_text = " to ".join(str(count) for count in sorted({seed_counts[0], seed_counts[-1]}))
    test_n = group.confirmed_cells[0].confirmed_trials[0].test_n
    all_courses, reference = courses(group), reference_cell(group)
    assert all_courses and reference
    answer = (
        f"The run goes on: it is not decided yet which is the smallest prompt as good as {cell_name(reference)} within "
        f"{100 * group.margin:g} percentage points."
        if all_courses.next_seeds
        else " ".join(ending_sentences(group))
    )
    caption = (
        f"{group.title}: {len(group.confirmed_cells)} prompts, {seeds_text} seeds each, {test_n:,} test sentences. "
        f"{answer} [docs/study](docs/study) has all looks, seeds and rates, and the records."
    )
    picture = "![Test accuracy against trainable parameters, with 95 % intervals](docs/study/accuracy.svg)"
    return "\n".join([picture, "", *textwrap.wrap(f"*{caption}*", 120), ""])


def figure_svg() -> bytes:
    """Return the figure of accuracy against trainable parameters."""
    (group,) = groups(load([RUN]))
    info = pareto.compute(group)
    assert not isinstance(info, Missing), info
    return style.figure_files(pareto.SPEC.draw(info))["svg"]


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


def page_with(page: str, text: str) -> str:
    """Return the page with this text between the two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{text.rstrip()}\n\n{END}{after}"


if __name__ == "__main__":
    for page_file, new_text in ((STUDY_PAGE, results_text()), (PROJECT_PAGE, project_text())):
        page_file.write_text(page_with(page_file.read_text(), new_text))
    FIGURE.write_bytes(figure_svg())
