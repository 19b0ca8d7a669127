"""The logic of a worker, without Ray. Clients are threads that call the worker's methods directly."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lopt import methods
from lopt.engine import Engine
from lopt.records import TrialRecord
from lopt.resolve import resolve
from lopt.training import Trial
from sweeps.on_ray.cluster import Allocation
from sweeps.results.store import Store
from sweeps.work import worker as worker_module
from sweeps.work.execution import execute
from sweeps.work.worker import Worker
from tests.sweeps.clients import job_of, run_client, run_clients, wait_until, without_durations

ROOT = Path(__file__).resolve().parents[2]


def test_trials_in_a_worker_report_and_write_the_same_as_alone(configs, tmp_path):
    all_reports = run_clients(Worker(), [job_of(config, tmp_path) for config in configs])
    for config, reports in zip(configs, all_reports, strict=True):
        solo_reports = list(execute(job_of(config, tmp_path, run="alone")))
        assert [report["status"] for report in reports] == ["running", "running", "complete"]
        assert [without_durations(report) for report in reports] == [
            without_durations(report) for report in solo_reports
        ]
        record = TrialRecord.from_dict(json.loads(reports[-1]["record"]))
        assert Store(tmp_path, "r").read(record.key) == record
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def test_a_confirm_trial_writes_artifact_predictions_and_score(tiny, tmp_path):
    from lopt import load_prompt

    (reports,) = run_clients(Worker(), [job_of(tiny, tmp_path, phase="confirm")])
    record, store = json.loads(reports[-1]["record"]), Store(tmp_path, "r")
    assert load_prompt(store.artifact_folder(record["key"])).evaluate().accuracy == record["test_accuracy"]
    assert (store.folder / "predictions" / f"{record['key']}.parquet").is_file()


def test_a_held_trial_does_not_train_while_the_others_do(configs, tmp_path):
    worker = Worker()
    name = worker.admit(job_of(configs[0], tmp_path))
    assert worker.next(name)["step"] == 4
    assert run_client(worker, job_of(configs[1], tmp_path))[-1]["status"] == "complete"
    assert worker._hosted[name].execution.trial.step == 4
    assert worker.next(name)["step"] == 8
    worker.evict(name)
    assert worker.next(name) is None


def test_a_trial_goes_on_from_its_checkpoint_in_another_worker(configs, tmp_path):
    job = job_of(configs[0], tmp_path)
    uninterrupted = list(execute(job_of(configs[0], tmp_path, run="alone")))
    first_reports = run_client(Worker(), job, max_count=2)
    store, key = Store(tmp_path, "r"), json.loads(first_reports[0]["record"])["key"]
    assert store.read_checkpoint(key)
    later_reports = run_client(Worker(), job)
    assert [(report["step"], report["status"], report["restored"]) for report in later_reports] == [
        (8, "running", True),
        (12, "complete", False),
    ]
    assert [report["note"] for report in later_reports] == ["continues at step 8", ""]
    assert without_durations(later_reports[-1]) == without_durations(uninterrupted[-1])
    assert not store.read_checkpoint(key)
    reports = run_client(Worker(), job)
    assert [report["status"] for report in reports] == ["complete"], "a trial that has ended does not run again"


def test_a_trial_saved_between_two_evaluations_first_reports_the_earlier_one_again(configs, tmp_path):
    uninterrupted = list(execute(job_of(configs[0], tmp_path, run="alone")))
    worker, job = Worker(), job_of(configs[0], tmp_path)
    name = worker.admit(job)
    assert worker.next(name)["step"] == 4
    trial = worker._hosted[name].execution.trial
    worker._in_training_thread(lambda: [trial.update() for _ in range(2)])
    worker.save()
    worker.evict(name)
    assert Store(tmp_path, "r").interrupted_trials() == [(trial.config, "c")]
    later_reports = run_client(Worker(), job)
    assert [(report["step"], report["status"], report["restored"]) for report in later_reports][:2] == [
        (4, "running", True),
        (8, "running", False),
    ]
    assert later_reports[0]["note"] == "continues at step 6"
    assert without_durations(later_reports[-1]) == without_durations(uninterrupted[-1])


def test_a_damaged_checkpoint_is_noted_and_ignored(configs, tmp_path):
    job = job_of(configs[0], tmp_path)
    key = resolve(configs[0]).key
    Store(tmp_path, "r").write_checkpoint(key, 8, b"nothing")
    reports = run_client(Worker(), job)
    assert [report["step"] for report in reports] == [4, 8, 12]
    assert reports[0]["note"].startswith("starts over: ")
    assert "is damaged" in reports[0]["note"]
    assert reports[1]["note"] == ""
    assert not Store(tmp_path, "r").read_checkpoint(key)


def test_a_failing_trial_keeps_its_checkpoint_and_the_others_go_on(configs, tmp_path, monkeypatch):
    original = Trial.draw_batch

    def draw_batch(self):
        if self.config.seed == 1 and self.step == 6:
            raise ArithmeticError("on purpose")
        return original(self)

    monkeypatch.setattr(Trial, "draw_batch", draw_batch)
    all_reports = run_clients(Worker(), [job_of(config, tmp_path) for config in configs])
    assert [reports[-1]["status"] for reports in all_reports] == ["complete", "failed", *["complete"] * 4]
    store, record = Store(tmp_path, "r"), json.loads(all_reports[1][-1]["record"])
    assert (record["steps"], record["error"]["message"]) == (6, "on purpose")
    assert store.read(record["key"]).status == "failed"
    assert store.read_checkpoint(record["key"]), "a later try goes on from the checkpoint of step 4"


def test_a_trial_that_cannot_be_set_up_fails(tiny, tmp_path):
    (report,) = run_client(Worker(), job_of(tiny.replace(length=300), tmp_path))
    assert report["status"] == "failed"
    assert "window" in json.loads(report["record"])["error"]["message"]


def test_a_trial_that_diverges_is_reported_as_diverged(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Trial, "record_evaluation", lambda self, evaluation: setattr(self, "diverged", True))
    (report,) = run_client(Worker(), job_of(tiny, tmp_path))
    assert report["status"] == "diverged"


def test_a_worker_trains_over_two_backbones(tiny, tmp_path):
    jobs = [job_of(tiny.replace(precision=precision), tmp_path) for precision in ("fp32", "fp64")]
    worker = Worker()
    assert [reports[-1]["status"] for reports in run_clients(worker, jobs)] == ["complete"] * 2
    wait_until(lambda: not worker._engines)


def test_a_trial_is_evicted_when_its_client_is_silent_or_asks_again(configs, tmp_path, monkeypatch):
    worker, job = Worker(), job_of(configs[0], tmp_path)
    first = worker.admit(job)
    second = worker.admit(job)
    assert worker.next(first) is None
    assert worker.next(second)["step"] == 4
    monkeypatch.setattr(worker_module, "SILENCE_S", 0.2)
    other = worker.admit(job_of(configs[1], tmp_path))  # wakes the worker up
    wait_until(lambda: not worker._hosted)
    assert worker.next(second) is None
    assert worker.next(other) is None


def test_evicting_a_trial_ends_the_wait_of_its_client(configs, tmp_path, monkeypatch):
    may_step, original = threading.Event(), Engine.advance

    def advance(self):
        may_step.wait()
        return original(self)

    monkeypatch.setattr(Engine, "advance", advance)
    worker = Worker()
    name = worker.admit(job_of(configs[0], tmp_path))
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(worker.next, name)
        wait_until(lambda: worker._hosted[name].is_training)
        worker.evict(name)
        assert report.result(10) is None
    may_step.set()
    assert run_client(worker, job_of(configs[1], tmp_path))[-1]["status"] == "complete"


def test_memory_is_released_from_time_to_time_and_when_no_trial_is_left(configs, tmp_path, monkeypatch):
    trials_at_release = []
    monkeypatch.setattr(worker_module, "release_memory", lambda: trials_at_release.append(len(worker._hosted)))
    monkeypatch.setattr(worker_module, "_RELEASE_INTERVAL_S", 60.0)
    worker = Worker()
    names = [worker.admit(job_of(config, tmp_path)) for config in configs]
    for name in names[:3]:
        worker.evict(name)
        worker.call(dict)  # it runs in the training thread, after the work that the eviction has left for that thread
    assert trials_at_release == [5]
    monkeypatch.setattr(worker_module, "_RELEASE_INTERVAL_S", 0.0)
    worker.next(names[3])
    worker.call(dict)
    assert trials_at_release == [5, 3], "the release was put off, not left out"
    monkeypatch.setattr(worker_module, "_RELEASE_INTERVAL_S", 60.0)
    for name in names[3:]:
        worker.evict(name)
        worker.call(dict)
    assert trials_at_release == [5, 3, 0]


def test_a_worker_ends_when_it_has_been_idle_for_long(configs, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "IDLE_S", 0.5)
    has_ended = threading.Event()
    monkeypatch.setattr(worker_module.os, "_exit", lambda code: has_ended.set())
    worker = Worker()
    name = worker.admit(job_of(configs[0], tmp_path))
    threading.Thread(target=worker.wait_until_death, daemon=True).start()
    assert not has_ended.wait(1)
    worker.evict(name)
    assert has_ended.wait(10)


def test_an_error_of_the_engine_fails_its_trials_but_not_the_worker(configs, tmp_path, monkeypatch):
    worker, jobs = Worker(), [job_of(config, tmp_path) for config in configs[:2]]
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", lambda self: 1 / 0)
        assert [reports[-1]["status"] for reports in run_clients(worker, jobs)] == ["failed"] * 2
    assert run_client(worker, job_of(configs[2], tmp_path))[-1]["status"] == "complete"


# --- which trials train in a worker -----------------------------------------------------------------------------------


def test_which_methods_share_a_backbone(tiny):
    sharing = {name for name in methods.names() if methods.get(name).shares_backbone}
    assert not sharing & {"lora", "fine_tuning"} and {"lopt1", "dept"} <= sharing
    allocation = Allocation(
        solo_resources={}, shared_resources={}, pack_size=4, max_concurrent=None, solo_threads=1, shared_threads=2
    )
    assert allocation.job_fields(tiny) == {"shares_backbone": True, "threads": 2, "pack_size": 4}
    for solo_config in (
        tiny.replace(dropout=0.1),
        tiny.replace(method="fine_tuning", length=None, rank=None, options={}),
    ):
        assert allocation.job_fields(solo_config) == {"shares_backbone": False, "threads": 1, "pack_size": 4}


def test_the_process_of_a_client_does_not_import_torch():
    code = (
        "import sys, sweeps.on_ray.client, sweeps.work.worker, lopt.methods; lopt.methods.get('lopt1');"
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "[]", process.stderr
