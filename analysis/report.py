"""Turn runs into tables, figures and one page: `python analysis/report.py [RUN ...] [--out DIR]`.

`python analysis/report.py RUN --watch` serves a page that shows a run while it goes on (`analysis/watching`).

RUN is a folder, a URL such as s3://bucket/results/RUN, or a name under results/. The default is the newest run; several
runs are pooled. This writes report.html (one file that needs no network), report.md, tables/*.{csv,md,tex} and
figures/*.{svg,pdf,png,csv} to the folder --out. By default this is report/ in the first run, or, for a run at a URL,
RUN-report/ in the current folder. A table or plot that fails is named and left out. Exit codes: 0 done, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote

if __name__ == "__main__":  # the repository must come first on the path, where Python puts the script's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import lopt.python_version  # noqa: F401  # first, because an old Python cannot read what follows

from analysis import compare, notes, render
from analysis.cells import groups
from analysis.folders import Folders
from analysis.load import Results, declaration_warnings, load
from analysis.page import Section, write_pages, write_report
from analysis.runs import ReportError, find_named_runs
from lopt import commands
from lopt.errors import USAGE_ERROR, Parser, discard_output, to_one_line
from lopt.locations import Location, redact_secrets, to_location


def summary(results: Results, sections: Sequence[Section], out: Path) -> str:
    """Return what the command prints: warnings, the answer of each section, and the path of the report."""
    lines = [
        *declaration_warnings(results),
        *notes.warnings(results, [section.group for section in sections]),
    ]
    for section in sections:
        lines += filter(None, (section.headline.answer, section.headline.exploratory_warning))
        lines += section.power
        best_cell = section.headline.best_cell
        if best_cell:
            name = section.group.score_name
            size_text = f"{best_cell.trainable_parameters:,} parameters"
            accuracy_text = f"test {name} {render.interval(best_cell.accuracy)}"
            lines.append(f"best cell by held-out {name}: {best_cell.label} ({size_text}), {accuracy_text}")
    return "\n".join([*lines, f"report: {quote(str(out / 'report.html'))}"])


def _output_folder(option: str | None, run: Location) -> Path:
    """Return the folder for the report: the value of --out (`option`), else the default for the run."""
    out = to_location(option) if option else run / "report"
    if isinstance(out, Path):
        return out
    if option:
        raise ReportError(
            f"--out {out} is not a local folder: give a local folder, and copy the report to the URL afterwards"
        )
    return Path(f"{run.name}-report")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        exit_code = _run(argv)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:  # nobody reads the output any more; the files of the report are already written
        discard_output()
        return 1


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(
        prog=commands.command_line("report").removeprefix("python "), description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a folder, a URL, or a name under --results (default: the newest run)"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="compare two runs; writes compare.md and compare.html"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder to write to (default: report/ in the first run; RUN-report/ for a URL)"
    )
    parser.add_argument("--results", default="results", help="folder or URL of all runs (default: results)")
    parser.add_argument(
        "--margin", type=_parse_margin, metavar="PP",
        help="percentage points of accuracy within which a smaller cell is as good as the reference (default: the "
        "margin that the run's space declares, or 1)",
    )  # fmt: skip
    parser.add_argument(
        "--watch", action="store_true", help="serve a page on this machine that shows the run while it goes on"
    )
    parser.add_argument("--port", type=_parse_port, metavar="N", help="port of the page of --watch (default: 8321)")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as error:  # argparse has printed why
        return int(error.code or 0)
    if arguments.compare and arguments.runs:
        print(f"report: --compare already names its two runs; leave out {join(arguments.runs)}", file=sys.stderr)
        return 2
    if arguments.watch and (arguments.compare or arguments.out or arguments.margin is not None):
        print("report: --watch writes no report: leave out --compare, --out and --margin", file=sys.stderr)
        return USAGE_ERROR
    try:
        try:
            if arguments.watch:
                from analysis.watching.server import watch  # imported here, because it brings matplotlib

                return watch(arguments.runs, to_location(arguments.results), arguments.port)
            if arguments.compare:
                return _compare(arguments)
            run_paths = find_named_runs(arguments.runs, to_location(arguments.results))
            results = load(run_paths, arguments.margin)
            out = _output_folder(arguments.out, run_paths[0])
        except (ReportError, BrokenPipeError):
            raise
        except (OSError, ValueError) as error:  # a URL is not valid or cannot be reached
            raise ReportError(redact_secrets(" ".join(str(error).split()))) from None
        try:
            sections, errors = write_report(results, out)
        except OSError as error:
            raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    except ReportError as error:
        print(f"report: {to_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    for error_text in errors:
        print(f"report: left out, because it failed: {error_text}", file=sys.stderr)
    print(summary(results, sections, out))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    run_paths = [find_named_runs([name], to_location(arguments.results))[0] for name in arguments.compare]
    if run_paths[0].resolve() == run_paths[1].resolve():
        raise ReportError(f"--compare {join(arguments.compare)} names one run twice: give two different runs")
    folders = Folders()  # shared, because a folder may have moved between the two runs
    both_results = [load([path], arguments.margin, folders) for path in run_paths]
    first_run, second_run = (results.runs[0] for results in both_results)
    have_same_names = first_run.name == second_run.name
    names = (first_run.path_text, second_run.path_text) if have_same_names else (first_run.name, second_run.name)
    both_groups = [groups(results) for results in both_results]
    tables = [compare.comparison_table(pair) for pair in compare.compare_groups(both_groups[0], both_groups[1], names)]
    warnings = [
        f"{name}: {warning}"
        for name, results, run_groups in zip(names, both_results, both_groups, strict=True)
        for warning in notes.warnings(results, run_groups)
    ]
    out = _output_folder(arguments.out, run_paths[0])
    context = {"title": f"{names[0]} and {names[1]}", "tables": tables, "warnings": warnings}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_pages("compare", context, out)
    except OSError as error:
        raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    print("\n".join([*warnings, *map(render.markdown, tables), f"comparison: {quote(str(out / 'compare.html'))}"]))
    return 0


def _parse_port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a port: give a number from 1 to 65535, or 0 for any free one"
        )
    return int(text)


def _parse_margin(text: str) -> float:
    """Convert the value of --margin from percentage points to a fraction."""
    try:
        margin_pp = float(text)
    except ValueError:
        margin_pp = 0.0
    if not 0 < margin_pp < 100:
        advice = "give percentage points above 0 and below 100, such as 1"
        raise argparse.ArgumentTypeError(f"{text!r} is not a margin; {advice}")
    return margin_pp / 100


if __name__ == "__main__":
    sys.exit(main())
