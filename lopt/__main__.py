"""The command that predicts with a trained prompt, exports it, or trains a recorded trial again:

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
from lopt.errors import USAGE_ERROR, Parser, cut_to_length, discard_output, to_one_line

if TYPE_CHECKING:
    from lopt.artifact import Answer
    from lopt.config import TrialConfig
    from lopt.records import Evaluation, TrialRecord
    from lopt.replay import ReplayResult

_TRIAL_FAILED = 3
_TERMINAL_INTERVAL_S, _LOG_INTERVAL_S = 0.5, 10.0  # time between two reports of progress
_OTHER_CLASS_COUNT = 3  # classes that are printed besides the predicted one, at most
_MIN_TEXT_WIDTH = 20  # characters of the input that are printed even on a narrow terminal


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
        exit_code = _run_command(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        discard_output()
        return 1
    except (ValueError, OSError) as error:  # OSError: a file cannot be opened, or a folder cannot be written
        print(f"error: {to_one_line(error)}", file=sys.stderr)
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
        help="folder or URL of the trained prompt or weights, such as results/<run>/artifacts/<key>",
    )
    _add_backbone_argument(parser)


def _add_backbone_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backbone", metavar="FOLDER", help="folder of the model, if it has moved (the weights must be the same)"
    )


def _local_folder(text: str) -> Path:
    if "://" in text:  # taken as a path, a URL would make a folder called "s3:"
        from lopt.locations import redact_secrets

        raise argparse.ArgumentTypeError(f"{redact_secrets(text)!r} is a URL; give a folder on this machine")
    return Path(text)


# --- predict ---------------------------------------------------------------------------------------------------


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    _add_prompt_argument(parser)
    input_options = parser.add_mutually_exclusive_group(required=True)
    input_options.add_argument(
        "--text",
        action="append",
        metavar="T",
        help="an input; the option may be repeated. For a task with several columns, give them as a JSON object",
    )
    input_options.add_argument(
        "--file",
        metavar="F",
        help="a .csv, .jsonl or .parquet file with the task's columns; for a task with one column also a .txt "
        "file with one text per line",
    )
    parser.add_argument("--json", action="store_true", help="print label, probabilities and input as a JSON line")


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
def _progress(total_count: int) -> Iterator[Callable[[int], None]]:
    """Print on standard error how many inputs are done. Yield a function that is called with each newly done number.

    On a terminal the count is one line, which is removed at the end. Elsewhere a new line is printed every ten seconds,
    so there is none for a short file.
    """
    on_terminal = sys.stderr.isatty()
    line_start, line_end, interval_s = ("\r", "", _TERMINAL_INTERVAL_S) if on_terminal else ("", "\n", _LOG_INTERVAL_S)
    done_count, has_printed, next_print_time_s = 0, False, time.monotonic() + interval_s

    def add_done(newly_done_count: int) -> None:
        nonlocal done_count, has_printed, next_print_time_s
        done_count += newly_done_count
        if time.monotonic() >= next_print_time_s and done_count != total_count:
            next_print_time_s, has_printed = time.monotonic() + interval_s, True
            print(f"{line_start}{done_count:,} of {total_count:,} inputs", end=line_end, file=sys.stderr, flush=True)

    try:
        yield add_done
    finally:
        if has_printed and on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _answer_lines(answers: "Sequence[Answer]", inputs: Sequence[Mapping[str, str]]) -> Iterable[str]:
    """Yield lines such as `positive  0.93  (negative 0.07)  A warm, funny film.`, cut to the width of a terminal."""
    line_width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    label_width = max(len(answer.label) for answer in answers)
    predictions = [_prediction_text(answer, label_width) for answer in answers]
    prediction_width = max(map(len, predictions))
    for prediction, fields in zip(predictions, inputs, strict=True):
        text = _printable(" | ".join(fields.values()))
        text_width = len(text) if line_width is None else max(_MIN_TEXT_WIDTH, line_width - prediction_width - 2)
        yield f"{prediction:<{prediction_width}}  {cut_to_length(text, text_width)}"


def _prediction_text(answer: "Answer", label_width: int) -> str:
    likeliest_first = sorted(answer.probabilities.items(), key=lambda pair: -pair[1])
    other_classes = [f"{label} {probability:.2f}" for label, probability in likeliest_first if label != answer.label]
    other_classes[_OTHER_CLASS_COUNT:] = ["…"] if len(other_classes) > _OTHER_CLASS_COUNT else []
    return f"{answer.label:<{label_width}}  {answer.probabilities[answer.label]:.2f}  ({', '.join(other_classes)})"


def _printable(text: str) -> str:
    """Return the text as one line of characters that can be printed in the output's encoding."""
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
    adapter_type, base_model = adapter_config["peft_type"], adapter_config["base_model_name_or_path"]
    print(f"{folder}: a {adapter_type} adapter of PEFT for {base_model}")
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
        help="file or URL of a trial's record (results/<run>/trials/<key>.json), or of a JSON object with the fields "
        "of a configuration",
    )
    parser.add_argument("--task", metavar="FOLDER", help="the task's folder, if it has moved since training")
    _add_backbone_argument(parser)
    parser.add_argument(
        "--artifact", type=_local_folder, metavar="DIR", help="folder for the trained prompt (default: not kept)"
    )
    parser.add_argument("--json", action="store_true", help="print the new record as JSON, and nothing else")


def _run_again(options: argparse.Namespace) -> int:
    from lopt.records import to_json
    from lopt.replay import ReplayResult, changed_conditions, read_trial, replay

    config, record = read_trial(options.config, task=options.task, backbone=options.backbone)
    print_line = (lambda line: None) if options.json else print
    print_line(_trial_text(config) + (f"; recorded: {record.status} at step {record.steps:,}" if record else ""))
    print_line(f"{'step':>7}  {'accuracy':>8}  {'recorded':>8}  {'loss':>9}  {'recorded':>9}")
    result = None
    try:
        for evaluations_or_result in replay(config, record, artifact=options.artifact):
            if isinstance(evaluations_or_result, ReplayResult):
                result = evaluations_or_result
            else:
                print_line(_evaluation_text(*evaluations_or_result))
    except Exception as error:
        if record is None and isinstance(error, ValueError | OSError):
            raise
        traceback.print_exc()  # users run a failed trial again in order to see this
        recorded_type = (record.error or {}).get("type") if record else None
        as_recorded_text = f", as recorded ({recorded_type})" if recorded_type == type(error).__name__ else ""
        print(f"failed: {type(error).__name__}{as_recorded_text}", file=sys.stderr)
        return _TRIAL_FAILED
    assert result is not None
    new_record = result.record
    if options.json:
        print(to_json(new_record.to_dict()), end="")
        return 0
    accuracy = new_record.test_accuracy
    test_text = "" if accuracy is None else f", {100 * accuracy:.2f} % on the test split"
    print_line(f"{new_record.status} at step {new_record.steps:,}{test_text}")
    if record is not None:
        print_line(_comparison_text(result, record, changed_conditions(new_record, record)))
    return 0


def _trial_text(config: "TrialConfig") -> str:
    shape_text = "".join(f" {name}={value}" for name, value in (("n", config.length), ("r", config.rank)) if value)
    return (
        f"{config.method}{shape_text}, learning rate {config.learning_rate:g}, seed {config.seed} "
        f"on {config.backbone}, {config.task}"
    )


def _evaluation_text(evaluation: "Evaluation", recorded: "Evaluation | None") -> str:
    """Return one line of the table: a new evaluation, and the recorded one of the same step."""
    recorded_accuracy, recorded_loss = "–", "–"
    if recorded is not None:
        recorded_accuracy = f"{100 * recorded.selection_accuracy:.1f} %"
        recorded_loss = f"{recorded.selection_loss:.6f}"
    return (
        f"{evaluation.step:>7,}  {100 * evaluation.selection_accuracy:>6.1f} %  {recorded_accuracy:>8}  "
        f"{evaluation.selection_loss:>9.6f}  {recorded_loss:>9}"
    )


def _comparison_text(result: "ReplayResult", record: "TrialRecord", changes: Sequence[str]) -> str:
    """Return how far the new training is from the record, and what has changed since then, as text."""
    changes_text = f"; changed since then: {', '.join(changes)}" if changes else ""
    if result.accuracy_difference is None or result.loss_difference is None:
        return f"there is nothing to compare, because the record has no evaluation{changes_text}"
    if result.record.status != record.status:
        return f"differs from its record, whose status is {record.status}{changes_text}"
    if result.accuracy_difference == 0 and result.loss_difference == 0:
        return "equal to its record"
    return (
        f"differs from its record by at most {100 * result.accuracy_difference:.2f} percentage points and "
        f"{result.loss_difference:.2g} nats{changes_text}"
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
