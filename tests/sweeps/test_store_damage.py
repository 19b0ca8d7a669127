"""Records that are damaged, or that this program cannot read or run: one line, and nothing is lost."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.config import key_of
from lopt.training import Trial
from sweeps.results import read_record
from sweeps.results.store import Store
from sweeps.run import main
from tests.analysis.test_analysis_damage import JSON, places, with_value
from tests.bad_input import called, fixed, line_of

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=4"]
RUN = "smoke-paper"
SIX = ("step", "selection_accuracy", "selection_loss", "train_loss", "top_class_share", "wall_time_s")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six finished trials."""
    out = tmp_path_factory.mktemp("made")
    assert sweep(out)[0] == 0
    return out


@pytest.fixture
def out(made, tmp_path):
    shutil.copytree(made, tmp_path / "out")
    return tmp_path / "out"


def sweep(out, *more, trials=1):
    return called(main, *SMALL, "--set", f"trials={trials}", "--out", out, *more)


def records(out, run=RUN):
    return sorted((out / run / "trials").glob("*.json"))


def content(out):
    """Of every file, but for the lock that a command leaves."""
    return {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.name != ".lock"}


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def renamed(file, **config):
    """A record whose configuration differs, as another program would have written it; its new file."""
    record = json.loads(file.read_text())
    record["config"].update(config)
    record["key"] = key_of(record["config"])
    file.unlink()
    file = file.with_name(f"{record['key']}.json")
    file.write_text(json.dumps(record))
    return file


# --- damage --------------------------------------------------------------------------------------------------------


@fixed(60)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_in_a_record(made, tmp_path, data, value):
    """The same command ends as it should, with the record as it was or made anew."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(made, out)
    file = data.draw(st.sampled_from(records(out)))
    whole = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(places(whole))))
    spoiled = with_value(whole, path, value)
    file.write_text(json.dumps(spoiled))
    before = content(out)
    code, said, err = sweep(out)
    if code == 2:
        assert f"{file.name}: record of schema {spoiled['schema_version']}" in line_of(code, said, err)
        assert content(out) == before
        return
    aside = file.with_name(f"{file.name}.damaged")
    # Which of a free search's sizes a trial was of, and in which cell, the file alone does not tell.
    assert code == 0 or (code == 3 and path in (("stratum",), ("cell",)) and "no confirmed trial" in said)
    assert err == "" and aside.exists() == (f"{file.name} is damaged (" in said)
    if aside.exists():
        assert aside.read_bytes() == before[file]
        assert json.loads(file.read_text())["config"] == whole["config"], "its trial has run again"
    else:
        assert file.read_bytes() == before[file]
        assert json.loads(file.read_text())["config"] == whole["config"]


@pytest.mark.parametrize(
    "change",
    [
        {"config": {}},
        {"config": {"method": "lopt1"}},
        {"key": "0" * 16},
        {"evaluations": [dict.fromkeys(SIX, 0.5) | {"step": "2"}]},
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
def test_a_record_that_is_none_is_named_and_set_aside(out, change):
    file = records(out)[0]
    changed(file, **change)
    found = Store(out, RUN).records()
    assert len(found) == 5
    assert file.with_name(f"{file.name}.damaged").exists()
    assert Store(out, RUN).read(file.stem) is None


def test_an_error_with_half_characters_is_written_and_read(tmp_path, monkeypatch):
    """As the name of a file may have them, which is no UTF-8."""

    def update(self):
        raise RuntimeError("no file \udcff")

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "update", update)
        code, said, _ = sweep(tmp_path)
    assert code == 3 and r"3 × RuntimeError: no file \udcff" in said
    assert sweep(tmp_path)[0] == 0


def test_another_configuration_under_the_same_key_is_damage(out):
    file = records(out)[0]
    config = json.loads(file.read_text())["config"]
    changed(file, config={**config, "learning_rate": config["learning_rate"] * 2})
    code, said, _ = sweep(out)
    assert (code, said.count("is damaged (its name, its key and its configuration do not belong together)")) == (0, 1)


def test_a_copy_under_another_name_is_no_record(out):
    file = records(out)[0]
    shutil.copy(file, file.with_name("0" * 16 + ".json"))
    assert len(Store(out, RUN).records()) == 6
    assert file.with_name("0" * 16 + ".json.damaged").exists()


def test_who_asks_for_one_damaged_record_gets_none(out):
    file = records(out)[0]
    file.write_text("{")
    assert Store(out, RUN).read(file.stem) is None
    assert file.exists(), "whoever holds the run sets it aside"


def test_a_key_can_be_made_of_a_configuration_that_cannot_be_run(tiny):
    assert key_of(tiny.to_dict()) == tiny.key == key_of(json.loads(json.dumps(tiny.to_dict())))
    assert key_of({**tiny.to_dict(), "method": "another"}) != tiny.key
    for config in ({}, {"options": 5}, {"options": {}, "task": 5, "backbone": "b"}):
        with pytest.raises((KeyError, TypeError, AttributeError)):
            key_of(config)


# --- newer versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [[], ["--set", "grace_steps=2"], ["--seeds", "2"]])
@pytest.mark.parametrize("manifest", [False, True])
def test_a_run_of_a_newer_version_is_one_line_and_nothing_is_touched(out, manifest, more):
    files = records(out)
    files[0].write_text("{")  # damage, too, stays as it is
    changed(files[-1], schema_version=9, invented=1)
    if manifest:
        changed(out / RUN / "manifest.json", schema_version=9, identity="another")
    before = content(out)
    line = line_of(*sweep(out, *more))
    assert content(out) == before
    if manifest or more != ["--set", "grace_steps=2"]:
        named = "manifest.json: of schema 9" if manifest else f"{files[-1].name}: record of schema 9"
        assert named in line and "; use the version of this program that wrote the run" in line
    else:
        assert "other settings (grace_steps " in line


# --- what is not here ----------------------------------------------------------------------------------------------


def test_trials_of_a_method_that_is_gone_stay_and_do_not_count(out, monkeypatch):
    """A plugin that was taken away: its records are whole, so they are kept as they are."""
    file = renamed(next(f for f in records(out) if '"lopt1"' in f.read_text()), method="gone")
    content = file.read_bytes()
    found = Store(out, RUN).records()
    assert len(found) == 6 and file.exists()
    code, said, _ = sweep(out, trials=2)
    assert code == 0
    assert re.search(r"1 finished trial kept, but no longer counted: lopt1 .*: unknown method 'gone'; valid: ", said)
    assert file.read_bytes() == content


def test_a_trial_that_cannot_be_run_here_is_named_where_it_counts(out):
    file = renamed(next(f for f in records(out) if '"lopt1"' in f.read_text()), method="gone")
    line = line_of(*sweep(out))
    assert f"trials/{file.name} cannot be run here (unknown method 'gone'; valid: " in line and "--name" in line


# --- other runs ----------------------------------------------------------------------------------------------------


def test_reuse_of_all_runs_leaves_out_what_it_cannot_read_and_touches_nothing(out):
    for name in ("newer", "damaged", "gone"):
        shutil.copytree(out / RUN, out / name)
    changed(records(out, "newer")[-1], schema_version=9)
    records(out, "newer")[0].write_text("{")
    records(out, "damaged")[0].write_text("{")
    renamed(records(out, "gone")[0], method="gone")
    (out / "no run's name").mkdir()
    (out / "no run's name" / "manifest.json").write_text("{}")
    before = content(out)
    code, said, err = sweep(out, "--name", "again", "--reuse")
    assert (code, err) == (0, "")
    assert "reused 6 of 6 trials" in said
    assert re.search(r"run newer is left out: .*\.json: record of schema 9; this program reads 1 to \d; use the ", said)
    assert re.search(r"damaged/trials/.*\.json is damaged \(not JSON: .*\); left out", said)
    assert "run no run's name is left out: run name" in said
    assert {file: data for file, data in content(out).items() if file in before} == before
    for flag in ("--reuse", "--warm-start"):
        assert "record of schema 9" in line_of(*sweep(out, "--name", "third", flag, "newer"))


def test_a_record_that_goes_while_a_run_is_read_is_left_out(out, monkeypatch):
    """Its own command tries a failed trial again."""
    honest, file = read_record.read_files, records(out)[0]

    def contents(files):
        file.rename(file.with_name(f"{file.stem}.failed-1.json"))
        return honest(files)

    monkeypatch.setattr(read_record, "read_files", contents)
    assert len(Store(out, RUN).peek()) == 5


def test_warm_starts_learn_from_what_can_be_read(out):
    shutil.copytree(out / RUN, out / "gone")
    renamed(records(out, "gone")[0], method="gone")
    code, said, err = sweep(out, "--name", "again", "--set", "batch_size=4", "--warm-start", "gone")
    assert (code, err) == (0, "")
    assert "the search learns from 3 trials of other runs" in said
