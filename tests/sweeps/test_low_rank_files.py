"""The files `low_rank/<key>.json`: who writes them, who copies them, and what happens without them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from analysis import report
from lopt import low_rank
from lopt.low_rank import LowRank
from lopt.training import Trial
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.work.execution import execute
from sweeps.work.worker import Worker
from tests.sweeps.clients import job_of, run_clients

SMALL = ["--space", "smoke", "--local-mode", "--set", "trials=1", "--set", "max_steps=4", "--set", "length=6"]


def sweep(out, *arguments):
    return main([*SMALL, "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished sweep with two seeds."""
    out = tmp_path_factory.mktemp("low-rank")
    assert sweep(out, "--seeds", "2") == 0
    return out


def full_prompts(store):
    """The records of confirmed full prompts."""
    return [r for r in store.records() if r.phase == "confirm" and r.config["method"] == "prompt_tuning"]


def test_a_sweep_writes_a_file_for_each_confirmed_full_prompt_and_reports_it(finished, tmp_path, capsys):
    store = Store(finished, "smoke-paper")
    records = full_prompts(store)
    assert len(records) == 2
    assert {path.name for path in (store.folder / "low_rank").iterdir()} == {f"{r.key}.json" for r in records}
    for record in records:
        content = store.read_low_rank(record.key)
        assert content.key == record.key and len(content.singular_values) == 6
        assert [cut.rank for cut in content.cuts] == [1, 2, 5]
        assert {cut.test_n for cut in content.cuts} == {record.test_n}
    assert report.main([str(store.folder), "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.md").read_text()
    assert "- Is the prompt low-rank? The trained prompts of Prompt tuning n=6 (2 seeds)" in page
    assert "Cut to rank 2 after training" in page and "LoPT-1 of the same length, trained at rank 2" in page
    assert {path.name for path in (tmp_path / "figures").glob("low_rank.*")} == {
        f"low_rank.{ending}" for ending in ("svg", "pdf", "png", "csv")
    }


def test_a_worker_writes_the_same_file_as_a_trial_alone(tiny, tmp_path):
    config = tiny.replace(method="prompt_tuning", rank=None)
    (reports,) = run_clients(Worker(), [job_of(config, tmp_path, phase="confirm")])
    key = json.loads(reports[-1]["record"])["key"]
    list(execute(job_of(config, tmp_path, run="alone", phase="confirm")))
    in_worker, alone = (Store(tmp_path, run).read_low_rank(key) for run in ("r", "alone"))
    assert dataclasses.replace(in_worker, time_s=0.0) == dataclasses.replace(alone, time_s=0.0)
    assert [cut.rank for cut in alone.cuts] == [1, 2]


@pytest.mark.parametrize(("method", "rank", "phase"), [("prompt_tuning", None, "search"), ("lopt1", 2, "confirm")])
def test_other_trials_write_no_such_file(tiny, tmp_path, method, rank, phase):
    (*_, report_of_end) = execute(job_of(tiny.replace(method=method, rank=rank), tmp_path, phase=phase))
    assert report_of_end["status"] == "complete" and not report_of_end["note"]
    assert not (tmp_path / "r" / "low_rank").exists()


def test_a_trial_whose_cuts_cannot_be_scored_is_complete_without_the_file(tmp_path, monkeypatch, capsys):
    def fail(trial):
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(low_rank, "measure", fail)
    assert sweep(tmp_path) == 0
    store = Store(tmp_path, "smoke-paper")
    (record,) = full_prompts(store)
    assert (record.status, record.error) == ("complete", None) and record.test_accuracy is not None
    assert not (store.folder / "low_rank").exists()
    assert "its prompt could not be cut to lower ranks (out of luck)" in capsys.readouterr().out
    assert report.main([str(store.folder), "--out", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Is the prompt low-rank?" not in page and not list((tmp_path / "out" / "figures").glob("low_rank*"))
    assert "Is a trained full prompt low-rank: it needs confirmed full prompts with files low\\_rank/KEY.json." in page


def test_a_sweep_that_continues_or_reuses_keeps_the_files(finished, tmp_path, monkeypatch, capsys):
    store = Store(finished, "smoke-paper")
    contents = {path.name: path.read_bytes() for path in (store.folder / "low_rank").iterdir()}
    monkeypatch.setattr(Trial, "update", lambda self: pytest.fail("no trial should be trained"))
    assert sweep(finished, "--seeds", "2") == 0
    assert {path.name: path.read_bytes() for path in (store.folder / "low_rank").iterdir()} == contents
    assert sweep(finished, "--seeds", "2", "--name", "again", "--reuse", "smoke-paper") == 0
    copies = {path.name: path.read_bytes() for path in (finished / "again" / "low_rank").iterdir()}
    assert copies == contents


def test_a_trial_that_is_copied_under_another_key_takes_its_file_along(finished, tmp_path):
    source, store = Store(finished, "smoke-paper"), Store(tmp_path, "run")
    record, damaged_record = full_prompts(source)
    content = source.read_low_rank(record.key)
    store.adopt(dataclasses.replace(record, key="0" * 16), source, record.key)
    assert store.read_low_rank("0" * 16) == dataclasses.replace(content, key="0" * 16)
    other = Store(tmp_path, "other")
    other.adopt(damaged_record, source)
    other.low_rank_path(damaged_record.key).write_text("{")
    store.adopt(damaged_record, other)
    assert store.read(damaged_record.key) == damaged_record and store.read_low_rank(damaged_record.key) is None
    assert not store.low_rank_path(damaged_record.key).exists(), "a damaged file is not copied"


def test_the_file_of_a_finished_trial_is_not_replaced(finished, tmp_path):
    source, store = Store(finished, "smoke-paper"), Store(tmp_path, "run")
    record = full_prompts(source)[0]
    content = source.read_low_rank(record.key)
    store.write(record, low_rank=content)
    store.write(record, low_rank=dataclasses.replace(content, time_s=99.0))
    assert store.read_low_rank(record.key) == content
    assert LowRank.from_dict(json.loads(store.low_rank_path(record.key).read_bytes())) == content
