"""Run a sweep: python sweeps/run.py --space ablation --profile demo

Exit codes: 0 complete · 2 wrong usage · 3 finished, but a trial failed or a cell has no confirmed trial ·
4 stopped at a budget, can be continued · 130 interrupted (Ctrl-C or SIGTERM), can be continued · 1 anything else.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script, the first entry of sys.path is sweeps/
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import lopt.python_version  # noqa: F401  # first, for what follows cannot be read by an old Python

from lopt import commands, exit_codes, registry
from lopt.errors import Parser, one_line, reader_has_gone
from sweeps.budget import OutOfTime


def parser() -> argparse.ArgumentParser:
    command_line = Parser(
        prog=commands.line("sweep").removeprefix("python "),
        description="Sweep soft prompts over method, rank, length and learning rate on Ray. "
        "The same command again continues a run; finished trials are never run twice.",
        epilog="exit codes: 0 complete, 2 wrong usage, 3 a trial failed or a cell has no confirmed trial, "
        "4 stopped at a budget, 130 interrupted; 4 and 130 can be continued",
        allow_abbrev=False,
    )
    add = command_line.add_argument
    named = {kind: "|".join(registry.names(f"sweeps.{kind}")) for kind in ("samplers", "stopping")}
    add("--space", required=True, help=f"{', '.join(registry.names('sweeps.spaces'))}, or path/to/space.py")
    add("--profile", default="paper", help="paper (the paper's own setting, default) or demo")
    add("--name", metavar="RUN", help="name of the run (default <space>-<profile>)")
    add("--out", default="results", help="folder of all runs, or a URL such as s3://bucket/results (default results)")
    add(
        "--dry-run",
        action="store_true",
        help="print the plan; needs no weights, and of the hub at most a model's config",
    )
    add(
        "--probe",
        action="store_true",
        help="measure for some seconds what trials cost where they would train, and print how long the sweep will take",
    )
    add("--price-per-hour", type=_PRICE, metavar="P", help="with --probe: of all machines together, for the cost")
    add("--json", action="store_true", help="with --dry-run or --probe: as JSON")
    add("--seeds", type=_count, metavar="N", help="fresh seeds that confirm each winner (paper 5, demo 1)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field of the trials or of the space; lists as in rank=1,2,5, ranges as in learning_rate=0.01:0.5; "
        f"sampler={named['samplers']}; stopping={named['stopping']}",
    )
    add("--fresh", action="store_true", help="begin anew; what the run holds is kept as <run>-before-N")
    add(
        "--reuse",
        action="append",
        nargs="?",
        const="all",
        default=[],
        metavar="RUN",
        help="take finished trials of the same key from another run under --out (without a name: from all of them)",
    )
    add(
        "--warm-start",
        action="append",
        default=[],
        metavar="RUN",
        help="let the search begin with what another run under --out has learned, of whatever task or backbone",
    )
    add(
        "--audit",
        type=_SHARE,
        default=0.0,
        metavar="SHARE",
        help="run this share of the trials that early stopping would stop to the end, to see what it costs",
    )
    add(
        "--track",
        action="append",
        default=[],
        type=_tracker,
        metavar="NAME",
        help=f"what follows the sweep: {', '.join(registry.names('sweeps.trackers'))}; give it again for several",
    )
    add("--local-mode", action="store_true", help="in this process, one trial at a time, without Ray")
    add(
        "--trials-per-gpu",
        type=_count,
        metavar="K",
        help="trials that share a GPU, or a machine without one (default: as many as keep it busy)",
    )
    add("--max-concurrent", type=_count, metavar="N", help="trials at once (default: fills the machine)")
    add("--max-trials", type=_count, metavar="N", help="start at most N trials, then exit 4")
    add(
        "--max-wall-time",
        dest="max_wall_time_s",
        type=_duration,
        metavar="T",
        help="after T (90s, 30m, 2h) end running trials at their next evaluation, then exit 4; also while no machine "
        "has come yet",
    )
    add(
        "--max-gpu-hours",
        type=_HOURS,
        metavar="H",
        help="after H GPU-hours end running trials at their next evaluation, then exit 4; a GPU counts while it has "
        "trials, once for all that share it",
    )
    add(
        "--max-trial-time",
        dest="max_trial_time_s",
        type=_duration,
        metavar="T",
        help="a trial that takes longer has failed; the others go on (with --local-mode nothing ends one that hangs)",
    )
    return command_line


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _parsed_and_run(arguments, alone=argv is None)
        sys.stdout.flush()  # here, where a reader that has gone is no fault
        return code
    except OutOfTime as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.BUDGET
    except BrokenPipeError:
        reader_has_gone()
        return exit_codes.FAILED
    except (ValueError, OSError) as error:  # the second: no folder can be written, no cluster answers
        print(f"error: {one_line(error)}", file=sys.stderr)
        return exit_codes.USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED


def _parsed_and_run(arguments: list[str], *, alone: bool) -> int:
    """alone: whether the process ends with the command."""
    try:
        chosen = parser().parse_args(arguments)
    except SystemExit as stop:  # argparse prints its one line itself
        return int(stop.code or 0)
    if alone and chosen.out.lower().startswith("memory:"):
        raise ValueError(f"--out {chosen.out}: what is kept there ends with the command; give a folder, or another URL")
    return _run(chosen, arguments)


def _run(chosen: argparse.Namespace, arguments: list[str]) -> int:
    import dataclasses

    from lopt.records import dumps
    from sweeps import spaces
    from sweeps.planning import plan_text, settings
    from sweeps.planning.plan import make_plan
    from sweeps.results.store import Store

    space = settings.with_settings(spaces.load(chosen.space, chosen.profile), _settings(chosen.set))
    space = settings.with_seeds(space, chosen.seeds)
    plan = make_plan(space)
    store = Store(chosen.out, f"{space.name}-{space.profile}" if chosen.name is None else chosen.name)
    if chosen.dry_run and chosen.probe:
        raise ValueError("--dry-run measures nothing and --probe does: give one of them")
    if chosen.fresh and chosen.probe:
        raise ValueError("--probe predicts what is left of a run and changes none: leave --fresh out, or give --name")
    if chosen.price_per_hour is not None and not chosen.probe:
        raise ValueError("--price-per-hour goes with --probe")
    if chosen.dry_run:
        print(dumps(plan_text.described(plan)) if chosen.json else plan_text.text(plan, store.run))
        return exit_codes.COMPLETE
    from sweeps.options import Options
    from sweeps.sweep import Sweep

    names = {field.name for field in dataclasses.fields(Options)}
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in vars(chosen).items() if n in names}
    options = Options(**values)
    sweep = Sweep(plan, store, options, commands.words("sweep", *arguments))
    if chosen.probe and chosen.json:
        with contextlib.redirect_stdout(sys.stderr):
            prediction = sweep.probe(chosen.price_per_hour)
        print(dumps({"plan": plan_text.described(plan), "prediction": prediction}))
        return exit_codes.COMPLETE
    aside = store.put_aside() if chosen.fresh else None
    if aside:
        print(f"run {store.run} begins anew; what it held is kept as {aside}. To continue it later, leave --fresh out")
    print(plan_text.text(plan, store.run), flush=True)
    if chosen.probe:
        from sweeps.forecast import probe

        print(probe.text(sweep.probe(chosen.price_per_hour)))
        return exit_codes.COMPLETE
    try:
        return sweep.run()
    except (ValueError, OSError):
        if aside and store.put_back(aside):
            print(f"run {store.run} is as it was, for nothing has begun")
        raise


def _settings(pairs: list[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set {pair!r}: give key=value, as in --set max_steps=200")
        if key.strip() in settings:
            raise ValueError(f"--set {key.strip()} is given twice: give it once")
        settings[key.strip()] = value
    return settings


def _tracker(text: str) -> str:
    from sweeps import trackers

    try:
        return trackers.get(text).name
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 1 to 999,999,999")
    return int(text)


def _number(what: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """Reads a number that fits, which `what` describes."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            value = float(text)
            if fits(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}")

    return read


_PRICE = _number("price above 0", lambda value: 0 < value < float("inf"))
_HOURS = _number("number of hours above 0", lambda value: 0 < value < float("inf"))
_SHARE = _number("share; give a number from 0 to 1", lambda value: 0 <= value <= 1)


def _duration(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh]?)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; valid: 90s, 30m, 2h")
    if not found[2]:
        raise argparse.ArgumentTypeError(
            f"{text!r} has no unit; say {text}s, {text}m or {text}h: seconds, minutes, hours"
        )
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def script() -> int:
    """The program `lopt-sweep`: `main`, and Ctrl-C and SIGTERM in order."""
    from sweeps import interrupt

    interrupt.listen()
    return main()


if __name__ == "__main__":
    sys.exit(script())
