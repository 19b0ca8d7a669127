"""A record that is damaged, or that this program cannot read or run, gives an error of one line. Nothing is lost."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.config import key_of_values
from lopt.training import Trial
from sweeps.results import read_record
from sweeps.results.store import Store
from sweeps.run import main
from tests.analysis.test_analysis_damage import JSON, value_paths, with_value
from tests.bad_input import error_line, fixed, run_command

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=4"]
RUN = "smoke-paper"
EVALUATION_FIELDS = ("step", "selection_accuracy", "selection_loss", "train_loss", "top_class_share", "wall_time_s")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A results folder with a run of six finished trials."""
    out = tmp_path_factory.mktemp("finished")
    assert sweep(out)[0] == 0
    return out


@pytest.fixture
def out(finished_run, tmp_path):
    """A copy of `finished_run`."""
    shutil.copytree(finished_run, tmp_path / "out")
    return tmp_path / "out"


def sweep(out, *options, trials=1):
    """Run the sweep. Return its exit code, standard output and standard error."""
    return run_command(main, *SMALL, "--set", f"trials={trials}", "--out", out, *options)


def record_files(out, run=RUN):
    return sorted((out / run / "trials").glob("*.json"))


def contents(out):
    """The content of every file, except the lock that a command leaves."""
    return {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != ".lock"}


def change_values(file, **values):
    """Change values in a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_config(file, **settings):
    """Change a record's configuration, and its key and file name with it. Return the new file."""
    record = json.loads(file.read_text())
    record["config"].update(settings)
    record["key"] = key_of_values(record["config"])
    file.unlink()
    file = file.with_name(f"{record['key']}.json")
    file.write_text(json.dumps(record))
    return file


# --- damage --------------------------------------------------------------------------------------------------------


@fixed(60)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_in_a_record(finished_run, tmp_path, data, value):
    """The same command ends as it should. The record is unchanged, or its trial has run again."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(finished_run, out)
    file = data.draw(st.sampled_from(record_files(out)))
    original = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(value_paths(original))))
    changed = with_value(original, path, value)
    file.write_text(json.dumps(changed))
    before = contents(out)
    code, stdout, stderr = sweep(out)
    if code == 2:
        assert f"{file.name}: record of schema {changed['schema_version']}" in error_line(code, stdout, stderr)
        assert contents(out) == before
        return
    renamed_file = file.with_name(f"{file.name}.damaged")
    # A record's file alone does not tell which cell the trial belongs to, nor its stratum in a free search.
    assert code == 0 or (code == 3 and path in (("stratum",), ("cell",)) and "no confirmed trial" in stdout)
    assert stderr == "" and renamed_file.exists() == (f"{file.name} is damaged (" in stdout)
    if renamed_file.exists():
        assert renamed_file.read_bytes() == before[file]
        assert json.loads(file.read_text())["config"] == original["config"], "its trial has run again"
    else:
        assert file.read_bytes() == before[file]
        assert json.loads(file.read_text())["config"] == original["config"]


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"method": "lopt1"}},
        {"key": "0" * 16},
        {"evaluations": [dict.fromkeys(EVALUATION_FIELDS, 0.5) | {"step": "2"}]},
        {"cell": ["a"]},
        {"provenance": []},
        {"status": "failed", "error": {"type": "E"}},
        {"steps": 10**30},
        {"test_loss": math.nan},
        {"wall_time_s": True},
        {"cell": "\ud800"},
        {"selection_accuracy": None},
        {"selection_accuracy": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_damaged_record_is_named_and_set_aside(out, change):
    file = record_files(out)[0]
    change_values(file, **change)
    assert len(Store(out, RUN).records()) == 5
    assert file.with_name(f"{file.name}.damaged").exists()
    assert Store(out, RUN).read(file.stem) is None


def test_an_error_with_half_of_a_surrogate_pair_is_written_and_read(tmp_path, monkeypatch):
    """The name of a file that is not UTF-8 has such characters."""

    def update(self):
        raise RuntimeError("no file \udcff")

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        code, stdout, _ = sweep(tmp_path)
    assert code == 3 and r"3 × RuntimeError: no file \udcff" in stdout
    assert sweep(tmp_path)[0] == 0


def test_a_record_with_another_configuration_than_its_key_is_damaged(out):
    file = record_files(out)[0]
    config = json.loads(file.read_text())["config"]
    change_values(file, config={**config, "learning_rate": config["learning_rate"] * 2})
    code, stdout, _ = sweep(out)
    assert (code, stdout.count("is damaged (its name, its key and its configuration do not match)")) == (0, 1)


def test_a_copy_of_a_record_under_another_name_is_damaged(out):
    file = record_files(out)[0]
    shutil.copy(file, file.with_name("0" * 16 + ".json"))
    assert len(Store(out, RUN).records()) == 6
    assert file.with_name("0" * 16 + ".json.damaged").exists()


def test_reading_one_damaged_record_returns_none(out):
    file = record_files(out)[0]
    file.write_text("{")
    assert Store(out, RUN).read(file.stem) is None
    assert file.exists(), "only `records`, for a command that holds the run, sets it aside"


def test_a_configuration_that_cannot_be_run_has_a_key(tiny):
    assert key_of_values(tiny.to_dict()) == tiny.key == key_of_values(json.loads(json.dumps(tiny.to_dict())))
    assert key_of_values({**tiny.to_dict(), "method": "another"}) != tiny.key
    for config in ({}, {"options": 5}, {"options": {}, "task": 5, "backbone": "b"}):
        with pytest.raises((KeyError, TypeError, AttributeError)):
            key_of_values(config)


# --- newer versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--set", "grace_steps=2"], ["--seeds", "2"]])
@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_run_of_a_newer_version_is_refused_and_not_changed(out, with_manifest, options):
    files = record_files(out)
    files[0].write_text("{")  # a damaged record is not changed either
    change_values(files[-1], schema_version=9, invented=1)
    if with_manifest:
        change_values(out / RUN / "manifest.json", schema_version=9, identity="another")
    before = contents(out)
    line = error_line(*sweep(out, *options))
    assert contents(out) == before
    if with_manifest or options != ["--set", "grace_steps=2"]:
        reason = "manifest.json has schema 9" if with_manifest else f"{files[-1].name}: record of schema 9"
        assert reason in line and "; use the version of this program that wrote the run" in line
    else:
        assert "other settings (grace_steps " in line


# --- methods that are not here ---------------------------------------------------------------------------------------


def test_trials_of_a_removed_method_are_kept_and_do_not_count(out, monkeypatch):
    """The method was a plugin that has been removed. The records are whole, so they stay as they are."""
    file = change_config(next(file for file in record_files(out) if '"lopt1"' in file.read_text()), method="gone")
    content = file.read_bytes()
    assert len(Store(out, RUN).records()) == 6 and file.exists()
    code, stdout, _ = sweep(out, trials=2)
    assert code == 0
    line = r"1 finished trial is kept, but no longer counted: lopt1 .*: unknown method 'gone'; valid: "
    assert re.search(line, stdout)
    assert file.read_bytes() == content


def test_a_trial_that_cannot_be_run_here_is_named_where_it_counts(out):
    file = change_config(next(file for file in record_files(out) if '"lopt1"' in file.read_text()), method="gone")
    line = error_line(*sweep(out))
    assert f"trials/{file.name} cannot be run here (unknown method 'gone'; valid: " in line and "--name" in line


# --- other runs ----------------------------------------------------------------------------------------------------


def test_reuse_of_all_runs_leaves_out_what_it_cannot_read_and_changes_nothing(out):
    for name in ("newer", "damaged", "gone"):
        shutil.copytree(out / RUN, out / name)
    change_values(record_files(out, "newer")[-1], schema_version=9)
    record_files(out, "newer")[0].write_text("{")
    record_files(out, "damaged")[0].write_text("{")
    change_config(record_files(out, "gone")[0], method="gone")
    (out / "no run's name").mkdir()
    (out / "no run's name" / "manifest.json").write_text("{}")
    before = contents(out)
    code, stdout, stderr = sweep(out, "--name", "again", "--reuse")
    assert (code, stderr) == (0, "")
    assert "reused 6 of 6 trials" in stdout
    newer = r"run newer is left out: .*\.json: record of schema 9; this program reads 1 to \d; use the "
    assert re.search(newer, stdout)
    assert re.search(r"damaged/trials/.*\.json is damaged \(not JSON: .*\); left out", stdout)
    assert "run no run's name is left out: run name" in stdout
    assert {file: content for file, content in contents(out).items() if file in before} == before
    for option in ("--reuse", "--warm-start"):
        assert "record of schema 9" in error_line(*sweep(out, "--name", "third", option, "newer"))


def test_a_record_that_is_set_aside_while_a_run_is_read_is_left_out(out, monkeypatch):
    """The run's own command does this when it tries a failed trial again."""
    original, file = read_record.read_files, record_files(out)[0]

    def read_files(files):
        file.rename(file.with_name(f"{file.stem}.failed-1.json"))
        return original(files)

    monkeypatch.setattr(read_record, "read_files", read_files)
    assert len(Store(out, RUN).readable_records()) == 5


def test_a_warm_start_uses_the_records_that_can_be_read(out):
    shutil.copytree(out / RUN, out / "gone")
    change_config(record_files(out, "gone")[0], method="gone")
    code, stdout, stderr = sweep(out, "--name", "again", "--set", "batch_size=4", "--warm-start", "gone")
    assert (code, stderr) == (0, "")
    assert "the search learns from 3 trials of other runs" in stdout
