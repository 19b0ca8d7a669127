"""Turn runs into tables, figures and one page: `python analysis/report.py [RUN ...] [--out DIR]`.

RUN is a folder, a URL such as s3://bucket/results/RUN, or a name under results/; the default is the newest run, several
are pooled. Writes report.html (one file, no network), report.md, tables/*.{csv,md,tex} and figures/*.{svg,pdf,png,csv}
to --out (default: the first run's own report/; of a run at a URL, RUN-report/ here). A table or plot that fails is
named and left out. Exit codes: 0 done, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import join, quote

if __name__ == "__main__":  # as a script, python puts this folder first: put the repository's root there
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import lopt.python_version  # noqa: F401  # first, for what follows cannot be read by an old Python

from analysis import compare, notes, render
from analysis.cells import groups
from analysis.folders import Folders
from analysis.load import Results, load
from analysis.noninferiority import MARGIN
from analysis.page import Section, build, write_pages
from analysis.runs import ReportError, resolve
from lopt import commands
from lopt.errors import USAGE_ERROR, Parser, one_line, reader_has_gone
from lopt.locations import Location, location, redacted


def summary(results: Results, sections: Sequence[Section], out: Path) -> str:
    lines = notes.warnings(results, [section.group for section in sections])
    for section in sections:
        lines += filter(None, (section.headline.answer, section.headline.exploratory))
        best = section.headline.best
        if best:
            text = f"best cell by selection accuracy: {best.label} ({best.trainable_parameters:,} parameters)"
            lines.append(f"{text}, test {render.interval(best.accuracy)}")
    return "\n".join([*lines, f"report: {quote(str(out / 'report.html'))}"])


def _out(given: str | None, run: Location) -> Path:
    """Where the report is written, which is always a folder."""
    found = location(given) if given else run / "report"
    if isinstance(found, Path):
        return found
    if given:
        raise ReportError(f"--out {found}: a report is written to a folder; give one, and copy it from there")
    return Path(f"{run.name}-report")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the files are written before anything is printed
        reader_has_gone()
        return 1


def _run(argv: Sequence[str] | None) -> int:
    parser = Parser(prog=commands.line("report").removeprefix("python "), description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a folder, a URL, or a name under --results; default: the newest"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="two runs beside each other; writes compare.md and compare.html"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: report/ in the first run; RUN-report/ for a URL)"
    )
    parser.add_argument("--results", default="results", help="the folder or URL of all runs (default: results)")
    parser.add_argument(
        "--margin", type=_margin, default=MARGIN, metavar="PP",
        help="percentage points within which a smaller prompt counts as good as the full one (default 1); choose it "
        "before you see results",
    )  # fmt: skip
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse prints its one line itself
        return int(stop.code or 0)
    if arguments.compare and arguments.runs:
        print(f"report: --compare takes its two runs itself; leave out {join(arguments.runs)}", file=sys.stderr)
        return 2
    try:
        try:
            if arguments.compare:
                return _compare(arguments)
            paths = resolve(arguments.runs, location(arguments.results))
            results = load(paths, arguments.margin)
            out = _out(arguments.out, paths[0])
        except (ReportError, BrokenPipeError):
            raise
        except (OSError, ValueError) as error:  # of a URL that is none, or cannot be reached
            raise ReportError(redacted(" ".join(str(error).split()))) from None
        try:
            sections, faults = build(results, out)
        except OSError as error:
            raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    except ReportError as error:
        print(f"report: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    for text in faults:
        print(f"report: left out, because it failed: {text}", file=sys.stderr)
    print(summary(results, sections, out))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    paths = [resolve([name], location(arguments.results))[0] for name in arguments.compare]
    if paths[0].resolve() == paths[1].resolve():
        raise ReportError(f"--compare {join(arguments.compare)} names one run twice: give two")
    folders = Folders()  # the same for both: a folder may have lain elsewhere for one of them
    both = [load([path], arguments.margin, folders) for path in paths]
    one, other = (results.runs[0] for results in both)
    names = (one.shown, other.shown) if one.name == other.name else (one.name, other.name)
    groups_of = [*map(groups, both)]
    tables = [*map(compare.table, compare.compare(groups_of[0], groups_of[1], names))]
    warnings = [
        f"{name}: {text}"
        for name, results, own in zip(names, both, groups_of, strict=True)
        for text in notes.warnings(results, own)
    ]
    out = _out(arguments.out, paths[0])
    context = {"title": f"{names[0]} and {names[1]}", "tables": tables, "warnings": warnings}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_pages("compare", context, out)
    except OSError as error:
        raise ReportError(f"cannot write to {out} ({error.strerror}): give another folder with --out") from None
    print("\n".join([*warnings, *map(render.markdown, tables), f"comparison: {quote(str(out / 'compare.html'))}"]))
    return 0


def _margin(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 100:
        valid = "give percentage points above 0 and below 100, such as 1"
        raise argparse.ArgumentTypeError(f"{text!r} is no margin; {valid}")
    return value / 100


if __name__ == "__main__":
    sys.exit(main())
