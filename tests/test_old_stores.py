"""Runs that earlier versions wrote, one of each schema: they still report, and the same command still continues them.

`tests/stores/schema-N` is what `python sweeps/run.py <COMMAND> --name schema-N` left when N was the current schema.
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
COMMAND = ["--space", "smoke", "--local-mode", "--set", "trials=2", "--set", "max_steps=6", "--set", "eval_every=2",
           "--set", "grace_steps=2"]  # fmt: skip


@pytest.fixture(params=VERSIONS)
def kept(request, tmp_path):
    """A copy of the run of one schema."""
    name = f"schema-{request.param}"
    shutil.copytree(STORES / name, tmp_path / name)
    versions = {json.loads(file.read_text())["schema_version"] for file in (tmp_path / name / "trials").glob("*.json")}
    assert versions == {request.param}
    return tmp_path / name


def test_its_report_has_all_of_it(kept, capsys):
    assert report.main([str(kept)]) == 0
    page = (kept / "report" / "report.html").read_text()
    assert "could not be read" not in page and "Not finished" not in page
    records = Store(kept.parent, kept.name).records()
    assert len(records) == 9
    for record in records:
        if record.test_accuracy is not None:
            assert f"{100 * record.test_accuracy:.1f}" in page


@pytest.mark.parametrize("phase", ["confirm", "search"])
def test_what_is_missing_is_trained_with_the_defaults_of_then(kept, capsys, phase):
    """X0 of LoPT-2 was one for all seeds. Mixed with ones drawn anew, an interval would be neither."""
    missing = [r for r in Store(kept.parent, kept.name).records() if r.phase == phase and r.cell == "lopt2 n=4 r=1"]
    for record in missing[:1]:
        (kept / "trials" / f"{record.key}.json").unlink()
    assert main([*COMMAND, "--out", str(kept.parent), "--name", kept.name]) == 0
    out = capsys.readouterr().out
    assert out.count(f"run {kept.name} began with x0_seed 0, which was the default then, and keeps it") == 1
    records = [r for r in Store(kept.parent, kept.name).records() if r.cell == "lopt2 n=4 r=1"]
    assert {r.config["options"]["x0_seed"] for r in records} == {0}
    assert [r.phase for r in records].count("search") == 2
    assert phase == "search" or missing[0].key in {r.key for r in records}, "the very trial that was missing"


def test_a_new_run_takes_nothing_from_one_with_other_defaults(kept, capsys):
    new = [*COMMAND, "--out", str(kept.parent), "--name", "new"]
    assert main([*new, "--reuse", kept.name]) == 0
    records = [r for r in Store(kept.parent, "new").records() if r.cell == "lopt2 n=4 r=1"]
    assert {r.config["options"]["x0_seed"] for r in records} == {None}
    assert not any(r.provenance.get("reused_from") for r in records)
    assert "began with" not in capsys.readouterr().out


def test_a_value_that_is_given_is_another_setting(kept, capsys):
    command = [*COMMAND, "--out", str(kept.parent), "--name", kept.name]
    assert main([*command, "--set", "x0_seed=5"]) == 2
    assert "with other settings (x0_seed None → 5)" in capsys.readouterr().err


def test_the_same_command_finds_it_finished(kept, capsys):
    before = {file: file.read_bytes() for file in (kept / "trials").iterdir()}
    assert main([*COMMAND, "--out", str(kept.parent), "--name", kept.name]) == 0
    assert "9 trials are finished" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in (kept / "trials").iterdir()} == before
