"""Run a sweep: python sweeps/run.py --space ablation --profile demo

Exit codes: 0 complete · 2 wrong usage · 3 finished, but a trial failed or a cell has no confirmed trial ·
4 stopped at a budget · 130 interrupted (Ctrl-C, SIGTERM or SIGHUP) · 1 anything else. After 4 and 130, the same command
continues the run.
"""

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # as a script, the first entry of sys.path is sweeps/; it must be the project's folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    import lopt.python_version  # noqa: F401  # first, because it refuses a Python that cannot read the modules below

from lopt import commands, exit_codes, registry
from lopt.errors import Parser, discard_output, to_one_line
from sweeps import argument_types
from sweeps.budget import OutOfTime

if TYPE_CHECKING:
    from sweeps.planning.decisions import NoiseByTask
    from sweeps.planning.plan import Plan


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command_parser = Parser(
        prog=commands.command_line("sweep").removeprefix("python "),
        description="Sweep soft prompts over method, rank, length and learning rate on Ray. "
        "The same command again continues a run; a finished trial is never run again.",
        epilog="exit codes: 0 complete, 2 wrong usage, 3 a trial failed or a cell has no confirmed trial, "
        "4 stopped at a budget, 130 interrupted; the same command continues a run after 4 and 130. "
        "`cluster-check FILE` in place of all options checks the file of a cluster before `ray up`",
        allow_abbrev=False,
    )
    add_option = command_parser.add_argument
    sampler_names, rule_names = ("|".join(registry.names(f"sweeps.{package}")) for package in ("samplers", "stopping"))
    add_option("--space", required=True, help=f"{', '.join(registry.names('sweeps.spaces'))}, or path/to/space.py")
    add_option("--profile", default="paper", help="paper (the setting of the paper, default) or demo")
    add_option("--name", metavar="RUN", help="name of the run (default <space>-<profile>)")
    add_option(
        "--out", default="results", help="folder of all runs, or a URL such as s3://bucket/results (default results)"
    )
    add_option(
        "--dry-run",
        action="store_true",
        help="print the plan and stop; loads no weights, and needs at most a model's config from the hub",
    )
    add_option(
        "--probe",
        action="store_true",
        help="measure for a few seconds how fast trials train on these machines, and print how long the sweep takes",
    )
    add_option(
        "--price-per-hour",
        type=argument_types.price,
        metavar="P",
        help="with --probe: price of all machines together, to predict what the sweep costs",
    )
    add_option("--json", action="store_true", help="with --dry-run or --probe: print JSON")
    add_option(
        "--seeds",
        type=argument_types.count,
        metavar="N",
        help="train each winner again with N fresh seeds (paper 5, demo 1)",
    )
    add_option(
        "--until-decided",
        action="store_true",
        help="add confirm seeds where the verdict is open, until it is known which is the smallest cell that is as "
        "good as the reference",
    )
    add_option(
        "--margin",
        type=argument_types.margin,
        metavar="PP",
        help="a smaller cell is as good as the reference if it is worse by less than PP percentage points of accuracy "
        "(default: the margin of the space)",
    )
    add_option(
        "--most-seeds",
        type=argument_types.count,
        metavar="N",
        help="with --until-decided: at most N confirm seeds of each cell (default 20)",
    )
    add_option(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a field of the trials or of the space: one value, a list as in rank=1,2,5, or a range as in "
        f"learning_rate=0.01:0.5; sampler={sampler_names}; stopping={rule_names}",
    )
    add_option(
        "--fresh", action="store_true", help="start the run over; its earlier results are kept as <run>-before-N"
    )
    add_option(
        "--reuse",
        action="append",
        nargs="?",
        const="all",
        default=[],
        metavar="RUN",
        help="copy finished trials with the same settings from another run under --out (without a name: from all runs)",
    )
    add_option(
        "--warm-start",
        action="append",
        default=[],
        metavar="RUN",
        help="let the search start with the results of another run under --out, even of another task or backbone",
    )
    add_option(
        "--audit",
        type=argument_types.share,
        default=0.0,
        metavar="SHARE",
        help="of the trials that early stopping would end, run this share to the last step, to see what stopping costs",
    )
    add_option(
        "--track",
        action="append",
        default=[],
        type=argument_types.tracker_name,
        metavar="NAME",
        help=f"follow the sweep with a tracker (available: {', '.join(registry.names('sweeps.trackers'))}); repeat the "
        "option for several trackers",
    )
    add_option("--local-mode", action="store_true", help="run in this process, one trial at a time, without Ray")
    add_option(
        "--trials-per-gpu",
        type=argument_types.count,
        metavar="K",
        help="train K trials at once on each GPU, or on each machine without one (default: as many as keep it busy)",
    )
    add_option(
        "--max-concurrent",
        type=argument_types.count,
        metavar="N",
        help="at most N trials at once (default: fill the machine)",
    )
    add_option(
        "--max-trials", type=argument_types.count, metavar="N", help="start at most N trials, then exit with code 4"
    )
    add_option(
        "--max-wall-time",
        dest="max_wall_time_s",
        type=argument_types.duration,
        metavar="T",
        help="after T (90s, 30m, 2h), end running trials at their next evaluation and exit with code 4; the time spent "
        "waiting for machines counts",
    )
    add_option(
        "--max-wait",
        dest="max_wait_s",
        type=argument_types.duration,
        default=1800.0,
        metavar="T",
        help="on a cluster: give up when no trial has had room on a machine for this long (default 30m)",
    )
    add_option(
        "--max-gpu-hours",
        type=argument_types.hours,
        metavar="H",
        help="after H GPU-hours, end running trials at their next evaluation and exit with code 4; a GPU counts while "
        "it has trials, once for all that share it",
    )
    add_option(
        "--max-trial-time",
        dest="max_trial_time_s",
        type=argument_types.duration,
        metavar="T",
        help="a trial that takes longer than T counts as failed, and the others go on (with --local-mode, a trial that "
        "hangs is not ended)",
    )
    return command_parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    argument_words = sys.argv[1:] if argv is None else argv
    try:
        exit_code = _parse_and_run(argument_words, owns_process=argv is None)
        sys.stdout.flush()  # here, so that a BrokenPipeError is handled below
        return exit_code
    except OutOfTime as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_codes.BUDGET_REACHED
    except BrokenPipeError:
        discard_output()
        return exit_codes.FAILED
    except (ValueError, OSError) as error:  # OSError: a folder cannot be written, a cluster does not answer
        print(f"error: {to_one_line(error)}", file=sys.stderr)
        return exit_codes.USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED


def _parse_and_run(argument_words: list[str], *, owns_process: bool) -> int:
    """Run the command and return its exit code; `owns_process` says whether the process ends with the command."""
    if argument_words[:1] == ["cluster-check"]:
        from sweeps import cluster_check

        return cluster_check.main(argument_words[1:])
    try:
        arguments = parser().parse_args(argument_words)
    except SystemExit as system_exit:  # argparse has printed the help or an error
        return int(system_exit.code or 0)
    if owns_process and arguments.out.lower().startswith("memory:"):
        raise ValueError(
            f"--out {arguments.out}: results in memory are lost when the command ends; give a folder or another URL"
        )
    return _run(arguments, argument_words)


def _run(arguments: argparse.Namespace, argument_words: list[str]) -> int:
    """Do what the arguments ask for: print the plan, predict the time or run the sweep. Return the exit code."""
    import dataclasses

    from lopt.records import to_json
    from sweeps import spaces
    from sweeps.planning import looks, plan_text, settings
    from sweeps.planning.decisions import decisions_to_dicts
    from sweeps.planning.plan import make_plan
    from sweeps.results.store import Store
    from sweeps.search.seed_rounds import keep_looks

    changed_settings = _parse_settings(arguments.set)
    for option, key, value in (("--margin", "margin", arguments.margin), ("--seeds", "confirm_seeds", arguments.seeds)):
        if value is not None:
            if key in changed_settings:
                raise ValueError(f"{option} and --set {key} set the same number: give one of them")
            changed_settings[key] = str(value)
    space = settings.with_settings(spaces.load(arguments.space, arguments.profile), changed_settings)
    seeds = space.confirm_seeds if "confirm_seeds" in changed_settings else None
    margin = space.margin if "margin" in changed_settings else None
    store = Store(arguments.out, f"{space.name}-{space.profile}" if arguments.name is None else arguments.name)
    if arguments.most_seeds and not arguments.until_decided:
        raise ValueError("--most-seeds goes with --until-decided: add --until-decided, or leave out --most-seeds")
    plan = make_plan(space)
    noise_by_task = _noise_by_task(plan, arguments.out)
    if arguments.until_decided:
        plan = looks.with_looks(plan, noise_by_task, seeds=seeds, most_seeds=arguments.most_seeds)
    if not arguments.fresh:
        plan = keep_looks(plan, store, margin=margin, seeds=seeds, most_seeds=arguments.most_seeds)
    if arguments.dry_run and arguments.probe:
        raise ValueError("--dry-run measures nothing, but --probe does: give one of them")
    if arguments.fresh and arguments.probe:
        raise ValueError(
            "--probe predicts the rest of a run and does not change it: leave --fresh out, or give --name for a new run"
        )
    if arguments.price_per_hour is not None and not arguments.probe:
        raise ValueError("--price-per-hour goes with --probe: add --probe, or leave out --price-per-hour")
    if arguments.dry_run:
        if arguments.json:
            print(to_json({**plan_text.plan_to_dict(plan), "power": decisions_to_dicts(plan, noise_by_task)}))
        else:
            print(plan_text.format_plan(plan, store.run, noise_by_task))
        return exit_codes.COMPLETE
    from sweeps.options import Options
    from sweeps.sweep import Sweep

    option_names = {field.name for field in dataclasses.fields(Options)}
    option_values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name in option_names
    }
    sweep = Sweep(plan, store, Options(**option_values), commands.command_words("sweep", *argument_words))
    if arguments.probe and arguments.json:
        with contextlib.redirect_stdout(sys.stderr):
            prediction = sweep.probe(arguments.price_per_hour)
        print(to_json({"plan": plan_text.plan_to_dict(plan), "prediction": prediction}))
        return exit_codes.COMPLETE
    earlier_run_name = store.put_aside() if arguments.fresh else None
    if earlier_run_name:
        print(
            f"run {store.run} starts over; its earlier results are kept as {earlier_run_name}. To continue the new run "
            "later, leave out --fresh"
        )
    print(plan_text.format_plan(plan, store.run, noise_by_task), flush=True)
    if arguments.probe:
        from sweeps.forecast import probe

        print(probe.prediction_text(sweep.probe(arguments.price_per_hour)))
        return exit_codes.COMPLETE
    try:
        return sweep.run()
    except (ValueError, OSError):
        if earlier_run_name and store.put_back(earlier_run_name):
            print(f"the earlier results of run {store.run} have been restored, because no trial has begun")
        raise


def _noise_by_task(plan: "Plan", out: str) -> "NoiseByTask":
    """Return how much accuracies varied in earlier runs of the plan's tasks, from the folder of all runs."""
    from analysis.noise import noise_of_earlier_runs

    return noise_of_earlier_runs(out, {(trial.backbone, trial.task) for trial in plan.space.all_sample_configs})


def _parse_settings(pairs: list[str]) -> dict[str, str]:
    """Return the value of each `--set key=value`, by its key."""
    settings: dict[str, str] = {}
    for pair in pairs:
        key, equals_sign, value = pair.partition("=")
        key = key.strip()
        if not equals_sign or not key:
            raise ValueError(f"--set {pair!r}: give key=value, as in --set max_steps=200")
        if key in settings:
            raise ValueError(f"--set {key} is given twice: give it once")
        settings[key] = value
    return settings


def script() -> int:
    """Run the program `lopt-sweep`: `main`, with Ctrl-C, SIGTERM and SIGHUP handled."""
    from sweeps import interrupt

    interrupt.install_handlers()
    return main()


if __name__ == "__main__":
    sys.exit(script())
