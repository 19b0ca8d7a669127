"""The command that uses and repeats what trials have trained:

python -m lopt predict --prompt results/<run>/artifacts/<key> --text "A warm, funny film."
python -m lopt export --prompt results/<run>/artifacts/<key> --to peft my-adapter
python -m lopt run --config results/<run>/trials/<key>.json

Exit codes: 0 done · 2 wrong usage, or a file that cannot be read or written · 3 the trial of `run` has failed ·
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

import lopt.python_version  # noqa: F401  # first, because an old Python cannot read the imports that follow
from lopt import commands
from lopt.errors import USAGE_ERROR, Parser, discard_output, one_line, truncate

if TYPE_CHECKING:
    from lopt.artifact import Answer
    from lopt.config import TrialConfig
    from lopt.records import Evaluation, TrialRecord
    from lopt.replay import ReplayResult

FAILED = 3
_TERMINAL_INTERVAL_S, _LOG_INTERVAL_S = 0.5, 10.0  # time between two reports of progress
_OTHER_CLASSES = 3  # how many classes are printed beside the predicted one
_MIN_TEXT = 20  # characters of the input that are printed on however short a line


@dataclass(frozen=True, kw_only=True)
class Command:
    """One subcommand.

    Attributes:
        add_arguments: adds the command's own arguments to its parser.
        run: carries out the command and returns the exit code.
    """

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        code = _run_command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        discard_output()
        return 1
    except (ValueError, OSError) as error:  # OSError: a file cannot be opened, or a folder cannot be written
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run_command(argv: list[str]) -> int:
    try:
        options = command_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or its error
        return int(stop.code or 0)
    return COMMANDS[options.command].run(options)


def command_parser() -> argparse.ArgumentParser:
    description = "Use a trained prompt or trained weights, or train a recorded trial again."
    parser = Parser(prog=commands.command_line("lopt"), description=description, allow_abbrev=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog=f"example: {command.example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
    return parser


def _add_prompt_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        required=True,
        metavar="DIR",
        help="folder or URL of the trained prompt or weights: results/<run>/artifacts/<key>, or your own",
    )
    _add_backbone_argument(parser)


def _add_backbone_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbone", metavar="FOLDER", help="folder of the model, if it has moved since training (the same weights)"
    )


def _local_folder(text: str) -> Path:
    if "://" in text:  # otherwise a folder called "s3:" would be made here
        from lopt.locations import redact

        raise argparse.ArgumentTypeError(f"{redact(text)!r} is a URL; give a folder of this machine")
    return Path(text)


# --- predict ---------------------------------------------------------------------------------------------------


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    _add_prompt_argument(parser)
    inputs = parser.add_mutually_exclusive_group(required=True)
    inputs.add_argument(
        "--text",
        action="append",
        metavar="T",
        help="an input; may be given several times. For a task of several columns, give a JSON object of them",
    )
    inputs.add_argument(
        "--file",
        metavar="F",
        help=".csv, .jsonl or .parquet with the task's columns; .txt with one text per line for a task of one column",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object per line: label, probabilities, input")


def _predict(options: argparse.Namespace) -> int:
    from lopt.artifact import load_prompt
    from lopt.inputs import inputs_from_file, inputs_from_texts

    prompt = load_prompt(options.prompt, backbone=options.backbone)
    task = prompt.task
    inputs = (
        inputs_from_texts(options.text, task) if options.file is None else inputs_from_file(Path(options.file), task)
    )
    with _progress(len(inputs)) as on_progress:
        answers = prompt.predict(inputs, on_progress)
    if options.json:
        for answer, fields in zip(answers, inputs, strict=True):
            print(json.dumps({"label": answer.label, "probabilities": answer.probabilities, "input": fields}))
    else:
        for line in _answer_lines(answers, inputs):
            print(line)
    return 0


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Report on standard error how many inputs are done. Yields the function that counts them.

    On a terminal this is one line, which is removed at the end. Elsewhere it is a new line now and then, so that a
    short file prints none.
    """
    on_terminal = sys.stderr.isatty()
    begin, end, interval_s = ("\r", "", _TERMINAL_INTERVAL_S) if on_terminal else ("", "\n", _LOG_INTERVAL_S)
    done, has_printed, next_print_s = 0, False, time.monotonic() + interval_s

    def count(newly_done: int) -> None:
        nonlocal done, has_printed, next_print_s
        done += newly_done
        if time.monotonic() >= next_print_s and done != total:
            next_print_s, has_printed = time.monotonic() + interval_s, True
            print(f"{begin}{done:,} of {total:,} inputs", end=end, file=sys.stderr, flush=True)

    try:
        yield count
    finally:
        if has_printed and on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _answer_lines(answers: "Sequence[Answer]", inputs: Sequence[Mapping[str, str]]) -> Iterable[str]:
    """Lines such as `positive  0.93  (negative 0.07)  A warm, funny film.`; the text is cut to the line of a terminal,
    and otherwise whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    label_width = max(len(answer.label) for answer in answers)
    predictions = [_prediction_text(answer, label_width) for answer in answers]
    indent = max(map(len, predictions))
    for prediction, fields in zip(predictions, inputs, strict=True):
        text = _printable(" | ".join(fields.values()))
        room = len(text) if width is None else max(_MIN_TEXT, width - indent - 2)
        yield f"{prediction:<{indent}}  {truncate(text, room)}"


def _prediction_text(answer: "Answer", label_width: int) -> str:
    likeliest_first = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    others = [f"{label} {probability:.2f}" for label, probability in likeliest_first if label != answer.label]
    others[_OTHER_CLASSES:] = ["…"] if len(others) > _OTHER_CLASSES else []
    return f"{answer.label:<{label_width}}  {answer.probabilities[answer.label]:.2f}  ({', '.join(others)})"


def _printable(text: str) -> str:
    """The text as one line that cannot steer a terminal, in characters that the output's encoding has."""
    text = "".join(character if character.isprintable() else "·" for character in " ".join(text.split()))
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


# --- export ----------------------------------------------------------------------------------------------------


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    _add_prompt_argument(parser)
    parser.add_argument(
        "--to", required=True, choices=("peft",), help="peft: an adapter that PeftModel.from_pretrained opens"
    )
    parser.add_argument("out", type=_local_folder, metavar="OUT", help="folder to write, new or empty")


def _export(options: argparse.Namespace) -> int:
    from lopt.artifact import load_prompt
    from lopt.export import export_to_peft

    folder = export_to_peft(load_prompt(options.prompt, backbone=options.backbone), options.out)
    adapter_config = json.loads((folder / "adapter_config.json").read_text())
    kind, base_model = adapter_config["peft_type"], adapter_config["base_model_name_or_path"]
    print(f"{folder}: a {kind} adapter of PEFT for {base_model}")
    for path in sorted(folder.iterdir()):
        print(f"  {path.name}  {path.stat().st_size:,} bytes")
    print(f"{folder / 'README.md'} says how to load and use it")
    return 0


# --- run -------------------------------------------------------------------------------------------------------


def _add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="file or URL of a trial's record, results/<run>/trials/<key>.json, or of a configuration's fields as a "
        "JSON object",
    )
    parser.add_argument("--task", metavar="FOLDER", help="the task's folder, if it has moved since training")
    _add_backbone_argument(parser)
    parser.add_argument(
        "--artifact", type=_local_folder, metavar="DIR", help="folder for the trained prompt (default: not kept)"
    )
    parser.add_argument("--json", action="store_true", help="print the new record as JSON, and nothing else")


def _run_again(options: argparse.Namespace) -> int:
    from lopt.records import dumps
    from lopt.replay import ReplayResult, changed_conditions, read_trial, replay

    config, record = read_trial(options.config, task=options.task, backbone=options.backbone)
    report = (lambda line: None) if options.json else print
    report(_trial_text(config) + (f"; recorded: {record.status} at step {record.steps:,}" if record else ""))
    report(f"{'step':>7}  {'held out':>8}  {'recorded':>8}  {'loss':>9}  {'recorded':>9}")
    result = None
    try:
        for item in replay(config, record, artifact=options.artifact):
            if isinstance(item, ReplayResult):
                result = item
            else:
                report(_evaluation_text(*item))
    except Exception as error:
        if record is None and isinstance(error, ValueError | OSError):
            raise
        traceback.print_exc()  # a failed trial is run again to see this
        recorded_type = (record.error or {}).get("type") if record else None
        as_recorded = f", as recorded ({recorded_type})" if recorded_type == type(error).__name__ else ""
        print(f"failed: {type(error).__name__}{as_recorded}", file=sys.stderr)
        return FAILED
    assert result is not None
    new_record = result.record
    if options.json:
        print(dumps(new_record.to_dict()), end="")
        return 0
    accuracy = new_record.test_accuracy
    tested = "" if accuracy is None else f", {100 * accuracy:.2f} % on the test split"
    report(f"{new_record.status} at step {new_record.steps:,}{tested}")
    if record is not None:
        report(_comparison_text(result, record, changed_conditions(new_record, record)))
    return 0


def _trial_text(config: "TrialConfig") -> str:
    shape = "".join(f" {name}={value}" for name, value in (("n", config.length), ("r", config.rank)) if value)
    return (
        f"{config.method}{shape}, learning rate {config.learning_rate:g}, seed {config.seed} "
        f"on {config.backbone}, {config.task}"
    )


def _evaluation_text(new: "Evaluation", recorded: "Evaluation | None") -> str:
    """One line of the table: an evaluation beside the recorded one."""
    accuracy, loss = "–", "–"
    if recorded is not None:
        accuracy, loss = f"{100 * recorded.selection_accuracy:.1f} %", f"{recorded.selection_loss:.6f}"
    return (
        f"{new.step:>7,}  {100 * new.selection_accuracy:>6.1f} %  {accuracy:>8}  {new.selection_loss:>9.6f}  {loss:>9}"
    )


def _comparison_text(result: "ReplayResult", record: "TrialRecord", changes: Sequence[str]) -> str:
    """How far the new training is from the record, and what has changed since."""
    since = f"; changed since then: {', '.join(changes)}" if changes else ""
    if result.accuracy_difference is None or result.loss_difference is None:
        return f"there is nothing to compare, because the record has no evaluation{since}"
    if result.record.status != record.status:
        return f"differs from its record, whose status is {record.status}{since}"
    if result.accuracy_difference == 0 and result.loss_difference == 0:
        return "equal to its record"
    return (
        f"differs from its record by at most {100 * result.accuracy_difference:.2f} percentage points and "
        f"{result.loss_difference:.2g} nats{since}"
    )


COMMANDS: Mapping[str, Command] = {
    "predict": Command(
        summary="print the label and the probabilities of new inputs",
        example='python -m lopt predict --prompt my-prompt --text "A warm, funny film." --text "Dull."',
        add_arguments=_add_predict_arguments,
        run=_predict,
    ),
    "export": Command(
        summary="write a trained prompt or LoRA as a PEFT adapter, with a model card",
        example="python -m lopt export --prompt my-prompt --to peft my-adapter",
        add_arguments=_add_export_arguments,
        run=_export,
    ),
    "run": Command(
        summary="train one trial again and print how far it is from its record",
        example="python -m lopt run --config results/smoke-paper/trials/0123456789abcdef.json",
        add_arguments=_add_run_arguments,
        run=_run_again,
    ),
}

if __name__ == "__main__":
    sys.exit(main())
