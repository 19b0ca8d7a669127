"""`python -m lopt run` trains a trial again and compares it with its record."""

from __future__ import annotations

import json
import uuid

import pytest

from lopt.__main__ import main
from lopt.locations import to_location
from lopt.records import to_json
from lopt.training import Trial


@pytest.fixture
def write_record(tiny, tmp_path):
    """A function that trains a trial, for a number of evaluations or to its end, and writes its record."""

    def train_and_write(evaluation_count=None, phase="confirm", **changes):
        trial = Trial(tiny.replace(**changes), phase=phase)
        for number, _ in enumerate(trial, start=1):
            if number == evaluation_count:
                break
        path = tmp_path / "record.json"
        path.write_text(to_json(trial.finish(cell="c", stratum="c").to_dict()))
        return path

    return train_and_write


def test_a_repeated_trial_is_equal_to_its_record(write_record, capsys):
    assert main(["run", "--config", str(write_record())]) == 0
    out = capsys.readouterr().out
    assert "recorded: complete at step" in out
    assert "on the test split" in out
    assert out.splitlines()[-1] == "equal to its record"


def test_a_record_is_read_from_a_url(write_record, capsys):
    record = to_location(f"memory://{uuid.uuid4().hex}") / "r" / "trials" / "0123456789abcdef.json"
    record.write_bytes(write_record().read_bytes())
    assert main(["run", "--config", str(record)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "equal to its record"
    assert main(["run", "--config", str(record.with_name("other.json"))]) == 2
    assert f"--config {record.parent}/other.json cannot be read" in capsys.readouterr().err


def test_the_differences_from_the_record_are_printed(write_record, capsys):
    path = write_record()
    values = json.loads(path.read_text())
    values["evaluations"][0]["selection_loss"] += 0.25
    values["evaluations"][1]["selection_accuracy"] = 0.0
    values["provenance"]["versions"]["torch"] = "0.1"
    path.write_text(to_json(values))
    assert main(["run", "--config", str(path), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["evaluations"][1]["selection_accuracy"]
    assert main(["run", "--config", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"differs from its record by at most {100 * accuracy:.2f} percentage points and 0.25 nats")
    assert "torch 0.1 →" in last


def test_a_stopped_trial_runs_only_to_the_step_of_its_record(write_record, capsys):
    assert main(["run", "--config", str(write_record(evaluation_count=1, phase="search"))]) == 0
    out = capsys.readouterr().out
    assert "stopped at step 3" in out
    assert out.splitlines()[-1] == "equal to its record"


def test_a_trial_that_fails_again_prints_its_traceback(write_record, capsys, monkeypatch):
    path = write_record()
    values = {**json.loads(path.read_text()), "status": "failed", "evaluations": []}
    values["error"] = {"type": "ZeroDivisionError", "message": "x", "traceback": "x"}
    path.write_text(to_json(values))
    monkeypatch.setattr(Trial, "loss", lambda *_: 1 / 0)
    assert main(["run", "--config", str(path)]) == 3
    error = capsys.readouterr().err
    assert "Traceback" in error and "1 / 0" in error
    assert error.splitlines()[-1] == "failed: ZeroDivisionError, as recorded (ZeroDivisionError)"


def test_a_bare_configuration_is_trained_and_its_prompt_kept(tiny, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.to_dict()))
    assert main(["run", "--config", str(path), "--artifact", str(tmp_path / "prompt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "complete"
    assert main(["predict", "--prompt", str(tmp_path / "prompt"), "--text", "good"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("9" * 5_000, "cannot be read as JSON"),
        ("[]", "does not hold a JSON object"),
        ("{}", "a trial needs method, task"),
        ('{"schema_version": 99}', "schema 99"),
        ('{"method": "lopt9", "task": "toy"}', "lopt9"),
    ],
)
def test_a_file_that_holds_no_record_is_refused_in_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    assert main(["run", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
