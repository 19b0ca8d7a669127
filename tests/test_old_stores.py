"""Runs that earlier versions wrote, one of each schema: they can be reported, and the same command continues them.

`python sweeps/run.py <COMMAND> --name schema-N` wrote `tests/stores/schema-N` when N was the current schema.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from analysis import report
from lopt.records import SCHEMA_VERSION
from sweeps.results.store import Store
from sweeps.run import main

STORES = Path(__file__).parent / "stores"
VERSIONS = range(1, SCHEMA_VERSION + 1)
WITH_FORMER_DEFAULTS = pytest.mark.parametrize("run", range(1, 4), indirect=True)  # x0_seed was 0
COMMAND = ["--space", "smoke", "--local-mode", "--set", "trials=2", "--set", "max_steps=6", "--set", "eval_every=2",
           "--set", "grace_steps=2"]  # fmt: skip


@pytest.fixture(params=VERSIONS)
def run(request, tmp_path):
    """The folder of a copy of one of these runs."""
    name = f"schema-{request.param}"
    shutil.copytree(STORES / name, tmp_path / name)
    versions = {json.loads(file.read_text())["schema_version"] for file in (tmp_path / name / "trials").glob("*.json")}
    assert versions == {request.param}
    return tmp_path / name


def records_of(run, cell=None):
    """The records of a run, or of one of its cells."""
    records = Store(run.parent, run.name).records()
    return [record for record in records if cell is None or record.cell == cell]


def test_its_report_is_complete(run, capsys):
    assert report.main([str(run)]) == 0
    page = (run / "report" / "report.html").read_text()
    assert "could not be read" not in page and "Not finished" not in page
    records = records_of(run)
    assert len(records) == 9
    for record in records:
        if record.test_accuracy is not None:
            assert f"{100 * record.test_accuracy:.1f}" in page


@WITH_FORMER_DEFAULTS
@pytest.mark.parametrize("phase", ["confirm", "search"])
def test_missing_trials_are_trained_with_the_former_defaults(run, capsys, phase):
    """All seeds of LoPT-2 had the same X0 then. An interval over old and new draws would have no meaning."""
    missing = [record for record in records_of(run, cell="lopt2 n=4 r=1") if record.phase == phase]
    for record in missing[:1]:
        (run / "trials" / f"{record.key}.json").unlink()
    assert main([*COMMAND, "--out", str(run.parent), "--name", run.name]) == 0
    out = capsys.readouterr().out
    assert out.count(f"run {run.name} began with x0_seed 0, which was the default then, and keeps it") == 1
    records = records_of(run, cell="lopt2 n=4 r=1")
    assert {record.config["options"]["x0_seed"] for record in records} == {0}
    assert [record.phase for record in records].count("search") == 2
    assert phase == "search" or missing[0].key in {record.key for record in records}, "the missing trial itself"


@WITH_FORMER_DEFAULTS
def test_a_new_run_reuses_no_trial_with_other_defaults(run, capsys):
    command = [*COMMAND, "--out", str(run.parent), "--name", "new", "--reuse", run.name]
    assert main(command) == 0
    records = records_of(run.with_name("new"), cell="lopt2 n=4 r=1")
    assert {record.config["options"]["x0_seed"] for record in records} == {None}
    assert not any(record.provenance.get("reused_from") for record in records)
    assert "began with" not in capsys.readouterr().out


def test_a_given_value_of_such_an_option_is_another_setting(run, capsys):
    command = [*COMMAND, "--out", str(run.parent), "--name", run.name]
    assert main([*command, "--set", "x0_seed=5"]) == 2
    assert "with other settings (x0_seed None → 5)" in capsys.readouterr().err


def test_the_same_command_changes_no_record_of_a_finished_run(run, capsys):
    contents = {file: file.read_bytes() for file in (run / "trials").iterdir()}
    assert main([*COMMAND, "--out", str(run.parent), "--name", run.name]) == 0
    assert "9 trials are finished" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in (run / "trials").iterdir()} == contents
