"""`python -m lopt`: its predictions equal the library's and the recorded ones. Wrong usage is one line and code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from lopt import __main__ as command
from lopt import load_prompt, tasks
from lopt.artifact import Answer, Prompt
from lopt.config import TrialConfig
from lopt.examples import load_split
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial
from tests.conftest import ROOT

PROGRAM = [sys.executable, "-m", "lopt"]
PAIR = {"premise": "A cat sat.", "hypothesis": "It stood."}


def save_prompt(folder, task, **more):
    """Save a prompt for backbone tiny, as training does. Return its folder."""
    config = TrialConfig(method="prompt_tuning", task=task, backbone="tiny", length=3, precision="fp32", **more)
    values = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    return str(Prompt(config, {"X": values}, SoftPrompt(prompt=values)).save(folder))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return save_prompt(tmp_path_factory.mktemp("toy"), "toy")


@pytest.fixture(scope="module")
def rte(tmp_path_factory):
    """A prompt for a task of two columns."""
    return save_prompt(tmp_path_factory.mktemp("rte"), "rte")


@pytest.fixture
def run(capsys):
    """A function that runs the command and returns its exit code, standard output and standard error."""

    def run_command(*argv):
        code = command.main(list(map(str, argv)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def predict(run, *argv):
    code, out, err = run("predict", *argv, "--json")
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def write_rows(path, rows):
    """Write rows to a file of the format that its suffix names."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\r\n" for line in lines), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_predictions_equal_the_librarys_and_the_recorded_ones(tiny, tmp_path, run):
    trial = Trial(tiny.replace(selection_examples=16, test_examples=40))
    for _ in trial:
        pass
    record = trial.finish(artifact=tmp_path / "prompt")
    recorded, split = trial.predictions, load_split(tasks.get("toy"), "validation")
    rows = [{"text": split[i].text_by_column["text"], "label": split[i].class_number} for i in recorded.example_ids]
    answers = predict(run, "--prompt", tmp_path / "prompt", "--file", write_rows(tmp_path / "reported.jsonl", rows))

    classes = tasks.get("toy").classes
    assert [classes.index(answer["label"]) for answer in answers] == recorded.predicted.tolist()
    assert len({answer["label"] for answer in answers}) == 2, "choose a rate at which both classes are predicted"
    hits = [classes.index(answer["label"]) == row["label"] for answer, row in zip(answers, rows, strict=True)]
    assert (np.mean(hits), len(hits)) == (record.test_accuracy, record.test_n)
    exponentials = np.exp(recorded.logits - recorded.logits.max(axis=1, keepdims=True))
    probabilities = np.array([list(answer["probabilities"].values()) for answer in answers])
    assert probabilities == pytest.approx(exponentials / exponentials.sum(axis=1, keepdims=True), abs=1e-12)

    expected = load_prompt(tmp_path / "prompt").predict([row["text"] for row in rows])
    assert [answer["label"] for answer in answers] == [answer.label for answer in expected]
    assert [answer["probabilities"] for answer in answers] == [answer.probabilities for answer in expected]
    assert [answer["input"]["text"] for answer in answers] == [row["text"] for row in rows]


def test_the_program_prints_the_same_as_the_function(toy, run):
    argv = ["predict", "--prompt", toy, "--text", "warm", "--text", "grim and dull"]
    result = subprocess.run([*PROGRAM, *argv], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == run(*argv)


def test_a_closed_standard_output_causes_no_message():
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}  # without a buffer argparse ignores the error itself
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*PROGRAM, "predict", "--help"], cwd=ROOT, env=buffered, text=True, **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_without_json_an_answer_is_one_readable_line(toy, run):
    _, out, _ = run("predict", "--prompt", toy, "--text", " warm \x1b[31m and\nfresh ", "--text", "x" * 300)
    first, second = out.splitlines()
    answer = load_prompt(toy).predict(["warm \x1b[31m and\nfresh"])[0]
    (other_class,) = (name for name in answer.probabilities if name != answer.label)
    shares = {name: f"{share:.2f}" for name, share in answer.probabilities.items()}
    assert (
        first == f"{answer.label}  {shares[answer.label]}  ({other_class} {shares[other_class]})  warm ·[31m and fresh"
    )
    assert second.endswith("x" * 300), "the text is whole where no terminal ends the line"


def test_on_a_terminal_the_text_is_cut_to_the_line(toy, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(command.sys.stdout, "isatty", lambda: True)
    _, out, _ = run("predict", "--prompt", toy, "--text", "fresh " * 20, "--text", "fresh")
    first, second = out.splitlines()
    assert len(first) == 60
    assert first.endswith("…")
    assert second.endswith("  fresh")
    assert first.index("fresh") == second.index("fresh")


def test_of_many_classes_only_the_likeliest_are_printed():
    answer = Answer("c", {"a": 0.05, "b": 0.2, "c": 0.5, "d": 0.15, "e": 0.1})
    assert command._prediction_text(answer, label_width=3) == "c    0.50  (b 0.20, d 0.15, e 0.10, …)"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_of_several_columns_are_read(suffix, rte, tmp_path, run):
    rows = [{"id": "7", **PAIR}, {"id": "8", "premise": "Zwölf Katzen.", "hypothesis": "Hunde, keine."}]
    answers = predict(run, "--prompt", rte, "--file", write_rows(tmp_path / f"pairs{suffix}", rows))
    assert [answer["input"] for answer in answers] == [{column: row[column] for column in PAIR} for row in rows]
    expected = load_prompt(rte).predict([answer["input"] for answer in answers])
    assert [answer["probabilities"] for answer in answers] == [answer.probabilities for answer in expected]
    texts = [f"--text={json.dumps(row)}" for row in rows]
    assert predict(run, "--prompt", rte, *texts) == answers


def test_a_text_file_has_one_text_per_line(toy, tmp_path, run):
    (tmp_path / "texts.txt").write_bytes('\ufeffwarm\r\n{"not": "read"}\r\nline\u2028separator\r\n'.encode())
    answers = predict(run, "--prompt", toy, "--file", tmp_path / "texts.txt")
    assert [answer["input"]["text"] for answer in answers] == ["warm", '{"not": "read"}', "line\u2028separator"]


def error_message(run, *argv):
    """Run a command that must be refused. Return the message."""
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    return err.removeprefix("error: ").rstrip()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "--text '': `text` is ''; give text"), (" \n", "give text"), ("half \ud800", "is not text in UTF-8")],
)
def test_a_text_that_cannot_be_used_is_refused(text, message, toy, run):
    assert message in error_message(run, "predict", "--prompt", toy, "--text", "fine", "--text", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A cat sat.", 'reads several columns; give a JSON object: {"premise": "…", "hypothesis": "…"}'),
        ("[1]", "give a JSON object"),
        ('{"premise": "A cat."}', "has no column 'hypothesis'; it has premise"),
        ("{}", "has no column 'premise'; it has none"),
        ('{"premise": "A cat.", "hypothesis": 3}', "`hypothesis` is 3; give text"),
    ],
)
def test_a_text_without_the_columns_is_refused(text, message, rte, run):
    line = error_message(run, "predict", "--prompt", rte, "--text", text)
    assert line.startswith(f"--text {text!r}"[:40])
    assert message in line


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"premise,label\nx,1\n", "a.csv, row 1 has no column 'hypothesis'; it has premise, label"),
        ("a.csv", b"premise,hypothesis\nx,y\nz\n", "a.csv, line 3 has a different number of fields"),
        ("a.csv", b"premise,hypothesis\nx,y\nz, \n", "a.csv, row 2: `hypothesis` is ' '; give text"),
        ("a.csv", b"premise,hypothesis\n", "a.csv holds no rows"),
        ("a.csv", b"premise,hypothesis\n\xff,b\n", "a.csv is not a CSV file in UTF-8"),
        ("a.jsonl", b'{"premise": "x", "hypothesis": "y"}\n{"premise": "x"}\n', "row 2 has no column 'hypothesis'"),
        ("a.jsonl", b"{\n", "a.jsonl, line 1 is not valid JSON"),
        ("a.jsonl", b"3\n", "a.jsonl, line 1 is not a JSON object"),
        ("a.parquet", b"PAR0", "a.parquet is not a Parquet file"),
        (
            "a.txt",
            b"one\n",
            "task rte reads premise, hypothesis: give a .csv, .jsonl or .parquet file with these columns",
        ),
        ("a.tsv", b"one\n", "ends in .tsv; valid: .txt, .csv, .jsonl, .parquet"),
        ("a", b"one\n", "has no suffix; valid"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(name, content, message, rte, tmp_path, run):
    (tmp_path / name).write_bytes(content)
    assert message in error_message(run, "predict", "--prompt", rte, "--file", tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "line 1: `text` is ''"), (b"a\n\nb\n", "line 2: `text` is ''"), (b"a\xff\n", "is not text in UTF-8")],
)
def test_a_text_file_that_cannot_be_used_is_refused(content, message, toy, tmp_path, run):
    (tmp_path / "a.txt").write_bytes(content)
    assert message in error_message(run, "predict", "--prompt", toy, "--file", tmp_path / "a.txt")


def test_a_file_that_does_not_exist_is_refused(toy, tmp_path, run):
    for path in (tmp_path / "no.csv", tmp_path):
        assert error_message(run, "predict", "--prompt", toy, "--file", path).endswith(f"{path.name} does not exist")


@pytest.mark.parametrize("action", [("predict", "--text", "a"), ("export", "--to", "peft", "OUT")])
def test_a_missing_or_damaged_prompt_is_refused(action, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "holds no trained prompt" in error_message(run, *action, "--prompt", "nowhere")
    folder = save_prompt(tmp_path / "prompt", "toy")
    content = (tmp_path / "prompt" / "prompt.safetensors").read_bytes()
    (tmp_path / "prompt" / "prompt.safetensors").write_bytes(content[:40])
    assert "is damaged" in error_message(run, *action, "--prompt", folder)
    (tmp_path / "prompt" / "prompt.safetensors").write_bytes(content)
    (tmp_path / "prompt" / "prompt.json").write_text("{}")
    assert "is damaged" in error_message(run, *action, "--prompt", folder)
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "COMMAND"),
        (("tell",), "invalid choice: 'tell'"),
        (("predict", "--text", "a"), "--prompt"),
        (("predict", "--prompt", "p"), "one of the arguments --text --file is required"),
        (("predict", "--prompt", "p", "--text", "a", "--file", "b"), "not allowed with argument"),
        (("export", "--prompt", "p", "OUT"), "--to"),
        (("export", "--prompt", "p", "--to", "gguf", "OUT"), "invalid choice: 'gguf'"),
        (("export", "--prompt", "p", "--to", "peft"), "OUT"),
        (("export", "--prompt", "p", "--to", "peft", "s3://u:p@b/x"), "'s3://b/x' is a URL; give a folder on this"),
        (("run", "--config", "c", "--artifact", "memory://x"), "argument --artifact: 'memory://x' is a URL"),
    ],
)
def test_wrong_usage_exits_with_code_2(argv, message, run):
    code, out, err = run(*argv)
    assert (code, out) == (2, "")
    assert message in err


def test_help_shows_an_example(run):
    for name, subcommand in command.COMMANDS.items():
        code, out, _ = run(name, "--help")
        assert code == 0
        assert subcommand.example in out


def test_help_and_usage_need_no_torch():
    code = (
        "import sys; from lopt.__main__ import main; main(['--help']); main(['predict', '--help'])\n"
        "print({'torch', 'ray', 'transformers', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_an_interrupt_exits_with_code_130(toy, run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Prompt, "predict", interrupt)
    assert run("predict", "--prompt", toy, "--text", "a") == (130, "", "interrupted\n")


def test_export_prints_the_files_that_it_wrote(tmp_path, run, capsys):
    pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    from lopt.backbones.tiny import tokenizer

    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=32, **shape)).save_pretrained(
        tmp_path / "base"
    )
    tokenizer().save_pretrained(tmp_path / "base")
    values, base = torch.zeros(3, 32), str(tmp_path / "base")
    config = TrialConfig(method="prompt_tuning", task="toy", backbone=base, length=3, precision="fp32")
    results = {"test_accuracy": 0.75, "test_n": 120, "test_split": "validation"}
    Prompt(config, {"X": values}, SoftPrompt(prompt=values)).save(tmp_path / "prompt", results=results)
    argv = ("export", "--prompt", tmp_path / "prompt", "--to", "peft", tmp_path / "out")
    capsys.readouterr()  # drops what saving a model prints
    code, out, err = run(*argv)
    assert (code, err) == (0, "")
    first, *files, last = out.splitlines()
    assert first == f"{tmp_path / 'out'}: a PROMPT_TUNING adapter of PEFT for base"
    assert [line.split()[0] for line in files] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert last.startswith(f"{tmp_path / 'out' / 'README.md'} ")
    assert "Accuracy: 75.0% on 120 examples of `validation`" in (tmp_path / "out" / "README.md").read_text()
    assert "is not empty; give a new folder" in error_message(run, *argv)


def test_export_refuses_what_peft_cannot_express(tmp_path, run):
    folder = save_prompt(tmp_path / "prompt", "toy", options={"placement": "suffix"})
    message = error_message(run, "export", "--prompt", folder, "--to", "peft", tmp_path / "out")
    assert message.startswith("this prompt is a suffix")


# --- progress --------------------------------------------------------------------------------------------------


def test_progress_of_a_long_file_is_printed_on_standard_error_only(toy, tmp_path, run, monkeypatch):
    file = write_rows(tmp_path / "new.csv", [{"text": f"text {i}"} for i in range(100)])
    quiet = run("predict", "--prompt", toy, "--file", file)
    assert quiet[2] == "", "a short file prints no progress"
    monkeypatch.setattr(command, "_LOG_INTERVAL_S", 0.0)
    code, out, err = run("predict", "--prompt", toy, "--file", file)
    assert (code, out) == quiet[:2]
    counts = [int(line.split(" of ")[0]) for line in err.splitlines()]
    assert counts == sorted(set(counts))
    assert 0 < len(counts) < 100
    assert all(line.endswith(" of 100 inputs") for line in err.splitlines())


def test_on_a_terminal_the_progress_line_is_removed_at_the_end(toy, tmp_path, run, monkeypatch):
    file = write_rows(tmp_path / "new.csv", [{"text": f"text {i}"} for i in range(100)])
    quiet = run("predict", "--prompt", toy, "--file", file)
    monkeypatch.setattr(command, "_TERMINAL_INTERVAL_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    code, out, err = run("predict", "--prompt", toy, "--file", file)
    assert (code, out) == quiet[:2]
    assert "\n" not in err
    assert err.startswith("\r")
    assert err.endswith("\r\x1b[K")
