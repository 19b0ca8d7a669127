"""What was trained, used from the command line:

python -m lopt predict --prompt results/<run>/artifacts/<key> --text "A warm, funny film."
python -m lopt export --prompt results/<run>/artifacts/<key> --to peft my-adapter
python -m lopt run --config results/<run>/trials/<key>.json

Exit codes: 0 done · 2 wrong usage, or something that cannot be read or written · 3 a trial that `run` runs has failed ·
130 interrupted · 1 anything else.
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import lopt.python_version  # noqa: F401  # first, for what follows cannot be read by an old Python
from lopt import commands
from lopt.errors import USAGE_ERROR, Parser, one_line, reader_has_gone, shortened

if TYPE_CHECKING:
    from lopt.artifact import Answer
    from lopt.config import TrialConfig
    from lopt.records import TrialRecord
    from lopt.replay import Replayed

FAILED = 3
_TERMINAL_S, _LOG_S = 0.5, 10.0  # how often it is said how many inputs are done
_OTHERS_SHOWN, _LEAST_TEXT = 3, 20  # classes beside the predicted one; characters of text on however short a line


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand. arguments: adds its own to the parser; run: does it and returns the exit code."""

    summary: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        reader_has_gone()
        return 1
    except (ValueError, OSError) as error:  # the second: a file that cannot be opened, a folder that cannot be written
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    try:
        given = parser().parse_args(argv)
    except SystemExit as stop:  # argparse prints its help, or its one line, itself
        return int(stop.code or 0)
    return COMMANDS[given.command].run(given)


def parser() -> argparse.ArgumentParser:
    made = Parser(prog=commands.line("lopt"), description="Use what was trained.", allow_abbrev=False)
    subcommands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        one = subcommands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example: {command.example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.arguments(one)
    return made


def _prompt_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--prompt", required=True, metavar="DIR", help="what was trained: results/<run>/artifacts/<key>, or your own"
    )
    _backbone_argument(to)


def _backbone_argument(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--backbone", metavar="FOLDER", help="where the model lies, if not where it lay in training (the same weights)"
    )


def _folder(text: str) -> Path:
    """A folder to write to."""
    if "://" in text:  # else "s3:" would be the first of some folders here
        from lopt.locations import redacted

        raise argparse.ArgumentTypeError(f"{redacted(text)!r} is a URL; give a folder of this machine")
    return Path(text)


# --- predict ---------------------------------------------------------------------------------------------------


def _predict_arguments(to: argparse.ArgumentParser) -> None:
    _prompt_argument(to)
    inputs = to.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "--text",
        action="append",
        metavar="T",
        help="an input; may be given several times. A task of several columns takes a JSON object of them",
    )
    inputs.add_argument(
        "--file",
        metavar="F",
        help=".csv, .jsonl or .parquet with the task's columns; .txt with one text a line for a task of one column",
    )
    to.add_argument("--json", action="store_true", help="a JSON object a line: label, probabilities, input")


def _predict(given: argparse.Namespace) -> int:
    from lopt import inputs as reading
    from lopt.artifact import load_prompt

    prompt = load_prompt(given.prompt, backbone=given.backbone)
    task = prompt.task
    inputs = reading.of_texts(given.text, task) if given.file is None else reading.of_file(Path(given.file), task)
    with _counting(len(inputs)) as counting:
        answers = prompt.predict(inputs, counting)
    pairs = zip(answers, inputs, strict=True)
    as_json = ({"label": a.label, "probabilities": a.probabilities, "input": fields} for a, fields in pairs)
    for line in map(json.dumps, as_json) if given.json else _as_text(answers, inputs):
        print(line)
    return 0


@contextlib.contextmanager
def _counting(total: int) -> Iterator[Callable[[int], None]]:
    """Says on standard error how many inputs are done: on a terminal in a line that goes at the end, elsewhere a line
    now and then, so that a short file has none."""
    begin, end, every_s = ("\r", "", _TERMINAL_S) if sys.stderr.isatty() else ("", "\n", _LOG_S)
    done, shown, next_s = 0, False, time.monotonic() + every_s

    def count(more: int) -> None:
        nonlocal done, shown, next_s
        done += more
        if time.monotonic() >= next_s and done != total:
            next_s, shown = time.monotonic() + every_s, True
            print(f"{begin}{done:,} of {total:,} inputs", end=end, file=sys.stderr, flush=True)

    try:
        yield count
    finally:
        if shown and begin:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _as_text(answers: "Sequence[Answer]", inputs: Sequence[Mapping[str, str]]) -> Iterable[str]:
    """`positive  0.93  (negative 0.07)  A warm, funny film.`: cut to the line of a terminal, else whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    longest = max(len(answer.label) for answer in answers)
    heads = [_head(answer, longest) for answer in answers]
    indent = max(map(len, heads))
    for head, fields in zip(heads, inputs, strict=True):
        text = _printable(" | ".join(fields.values()))
        room = len(text) if width is None else max(_LEAST_TEXT, width - indent - 2)
        yield f"{head:<{indent}}  {shortened(text, room)}"


def _head(answer: "Answer", longest: int) -> str:
    by_odds = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    others = [f"{name} {share:.2f}" for name, share in by_odds if name != answer.label]
    others[_OTHERS_SHOWN:] = ["…"] if len(others) > _OTHERS_SHOWN else []
    return f"{answer.label:<{longest}}  {answer.probabilities[answer.label]:.2f}  ({', '.join(others)})"


def _printable(text: str) -> str:
    """One line that cannot steer a terminal and that this output's encoding holds."""
    text = "".join(c if c.isprintable() else "·" for c in " ".join(text.split()))
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


# --- export ----------------------------------------------------------------------------------------------------


def _export_arguments(to: argparse.ArgumentParser) -> None:
    _prompt_argument(to)
    to.add_argument(
        "--to", required=True, choices=("peft",), help="peft: an adapter that PeftModel.from_pretrained opens"
    )
    to.add_argument("out", type=_folder, metavar="OUT", help="folder to write; it is empty, or not there yet")


def _export(given: argparse.Namespace) -> int:
    from lopt.artifact import load_prompt
    from lopt.export import export_to_peft

    folder = export_to_peft(load_prompt(given.prompt, backbone=given.backbone), given.out)
    written = json.loads((folder / "adapter_config.json").read_text())
    print(f"{folder}: a {written['peft_type']} adapter of PEFT for {written['base_model_name_or_path']}")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}  {path.stat().st_size:,} bytes")
    print(f"{folder / 'README.md'} says how to load and use it")
    return 0


# --- run -------------------------------------------------------------------------------------------------------


def _run_arguments(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--config", required=True, metavar="FILE", help="a trial's record, results/<run>/trials/<key>.json (also at "
        "a URL), or the fields of a configuration as a JSON object"
    )  # fmt: skip
    to.add_argument("--task", metavar="FOLDER", help="where the task's folder lies, if not where it lay in training")
    _backbone_argument(to)
    to.add_argument("--artifact", type=_folder, metavar="DIR", help="folder for the trained prompt (default: not kept)")
    to.add_argument("--json", action="store_true", help="the new record as JSON, and nothing else")


def _run_again(given: argparse.Namespace) -> int:
    from lopt import replay
    from lopt.records import dumps

    config, record = replay.read(given.config, task=given.task, backbone=given.backbone)
    say = (lambda line: None) if given.json else print
    say(f"{_trial(config)}{f'; recorded: {record.status} at step {record.steps:,}' if record else ''}")
    say(f"{'step':>7}  {'held out':>8}  {'recorded':>8}  {'loss':>9}  {'recorded':>9}")
    made = None
    try:
        for found in replay.again(config, record, artifact=given.artifact):
            if isinstance(found, replay.Replayed):
                made = found
                continue
            new, old = found
            before = (f"{100 * old.selection_accuracy:.1f} %", f"{old.selection_loss:.6f}") if old else ("–", "–")
            say(
                f"{new.step:>7,}  {100 * new.selection_accuracy:>6.1f} %  {before[0]:>8}  "
                f"{new.selection_loss:>9.6f}  {before[1]:>9}"
            )
    except Exception as error:
        if record is None and isinstance(error, ValueError | OSError):
            raise
        traceback.print_exc()  # it is what the trial is run again for
        expected = (record.error or {}).get("type") if record else None
        said = f", as recorded ({expected})" if expected == type(error).__name__ else ""
        print(f"failed: {type(error).__name__}{said}", file=sys.stderr)
        return FAILED
    assert made is not None
    if given.json:
        print(dumps(made.record.to_dict()), end="")
        return 0
    tested = "" if made.record.test_accuracy is None else f", {100 * made.record.test_accuracy:.2f} % on the test split"
    say(f"{made.record.status} at step {made.record.steps:,}{tested}")
    if record is not None:
        say(_beside(made, record, replay.differing(config, made.record, record)))
    return 0


def _trial(config: "TrialConfig") -> str:
    shape = "".join(f" {n}={v}" for n, v in (("n", config.length), ("r", config.rank)) if v)
    return (
        f"{config.method}{shape}, learning rate {config.learning_rate:g}, seed {config.seed} "
        f"on {config.backbone}, {config.task}"
    )


def _beside(made: "Replayed", record: "TrialRecord", differing: Sequence[str]) -> str:
    """How far a trial that ran again is from its record."""
    why = f"; not as it was: {', '.join(differing)}" if differing else ""
    if made.accuracy_difference is None or made.loss_difference is None:
        return f"nothing to compare: the record has no evaluation{why}"
    if made.record.status != record.status:
        return f"another outcome than recorded: {record.status}{why}"
    if made.accuracy_difference == 0 and made.loss_difference == 0:
        return "equal to its record"
    return (
        f"differs from its record by at most {100 * made.accuracy_difference:.2f} percentage points and "
        f"{made.loss_difference:.2g} nats{why}"
    )


COMMANDS: Mapping[str, Command] = {
    "predict": Command(
        summary="label and probabilities of new inputs",
        example='python -m lopt predict --prompt my-prompt --text "A warm, funny film." --text "Dull."',
        arguments=_predict_arguments,
        run=_predict,
    ),
    "export": Command(
        summary="write what was trained as a PEFT adapter, with a model card",
        example="python -m lopt export --prompt my-prompt --to peft my-adapter",
        arguments=_export_arguments,
        run=_export,
    ),
    "run": Command(
        summary="train one trial again and say how far it is from its record",
        example="python -m lopt run --config results/smoke-paper/trials/0123456789abcdef.json",
        arguments=_run_arguments,
        run=_run_again,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
