"""A worker's own logic, without Ray: the class as it is, clients as threads."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lopt import methods
from lopt.engine import Engine
from lopt.records import MEASURED, TrialRecord
from lopt.resolve import resolve
from lopt.training import Trial
from sweeps.on_ray.cluster import Allocation
from sweeps.results.store import Store
from sweeps.work import worker as workers
from sweeps.work.execution import Execution, execute
from sweeps.work.job import Job
from sweeps.work.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


def job_of(config, tmp_path, run="r", phase="search", **more):
    place = {"phase": phase, "cell": "c", "stratum": "s", "out": str(tmp_path), "run": run, **more}
    return Job(config=resolve(config), shared=config.shares_backbone, **place)


def drive(worker, job, most=math.inf):
    """A client: the reports of a job, at most so many; then it leaves."""
    name, reports = worker.admit(job), []
    try:
        while len(reports) < most:
            reports.append(worker.next(name))
            if reports[-1]["status"] != "running":
                break
    finally:
        worker.evict(name)
    return reports


def together(worker, jobs):
    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: drive(worker, job), jobs))


def failing(honest, is_bad):
    return lambda run: run.fail(ValueError("no")) if is_bad(run.config) else honest(run)


def what(report):
    """A report without what depends on time, and losses to nine digits: packing adds in another order."""
    record = json.loads(report["record"])
    for name in MEASURED:
        record.pop(name)
    for evaluation in record["evaluations"]:
        evaluation.pop("wall_time_s")
        evaluation.update({name: round(evaluation[name], 9) for name in ("selection_loss", "train_loss")})
    return {**report, "record": {**record, "selection_loss": round(record["selection_loss"], 9)}}


@pytest.fixture
def six(tiny):
    """Trials of several methods and lengths, fp64, so that packing changes nothing that can be seen."""
    base = tiny.replace(precision="fp64", max_steps=12, eval_every=4)
    some = [base.replace(seed=seed) for seed in range(3)]
    return [
        *some,
        base.replace(method="prompt_tuning", rank=None, options={}),
        base.replace(method="lopt2", options={}),
        base.replace(length=6),
    ]


def test_trials_in_a_worker_say_and_leave_what_they_do_alone(six, tmp_path):
    found = together(Worker(), [job_of(config, tmp_path) for config in six])
    for config, reports in zip(six, found, strict=True):
        alone = list(execute(job_of(config, tmp_path, run="alone")))
        assert [r["status"] for r in reports] == ["running", "running", "complete"]
        assert [what(r) for r in reports] == [what(r) for r in alone]
        said = TrialRecord.from_dict(json.loads(reports[-1]["record"]))
        assert Store(tmp_path, "r").read(said.key) == said
    assert not list((tmp_path / "r" / "checkpoints").iterdir())


def test_a_confirmed_trial_leaves_artifact_predictions_and_score(tiny, tmp_path):
    from lopt import load_prompt

    (reports,) = together(Worker(), [job_of(tiny, tmp_path, phase="confirm")])
    record, store = json.loads(reports[-1]["record"]), Store(tmp_path, "r")
    assert load_prompt(store.artifact(record["key"])).evaluate().accuracy == record["test_accuracy"]
    assert (store.folder / "predictions" / f"{record['key']}.parquet").is_file()


def test_a_trial_that_is_held_does_not_train_and_the_others_do(six, tmp_path):
    worker = Worker()
    name = worker.admit(job_of(six[0], tmp_path))
    assert worker.next(name)["step"] == 4
    assert drive(worker, job_of(six[1], tmp_path))[-1]["status"] == "complete"
    assert worker._seats[name].run.trial.step == 4
    assert worker.next(name)["step"] == 8
    worker.evict(name)
    assert worker.next(name) is None


@pytest.fixture
def sizes(monkeypatch):
    """How many trials made each step, which takes a fifth of a second at least. Whoever has reported is waited for."""
    made, honest = [], Engine.advance

    def advance(self):
        made.append(len(self.trials))
        time.sleep(0.2)
        return honest(self)

    monkeypatch.setattr(Engine, "advance", advance)
    monkeypatch.setattr(workers, "_LEAST_PATIENCE_S", 5.0)
    return made


def test_trials_that_report_together_go_on_together(six, tmp_path, sizes):
    worker, names = Worker(), []
    for config in six:
        names.append(worker.admit(job_of(config, tmp_path)))
    for step in (4, 8, 12):
        with ThreadPoolExecutor(len(names)) as pool:
            assert {report["step"] for report in pool.map(worker.next, names)} == {step}
    assert sizes == [6] * 12


def test_the_first_step_waits_until_the_places_are_taken(six, tmp_path, sizes, monkeypatch):
    monkeypatch.setattr(workers, "_COMPANY_S", 60.0)
    worker, jobs = Worker(), [job_of(config, tmp_path, packed=3) for config in six[:3]]
    with ThreadPoolExecutor(3) as pool:
        began, found = time.monotonic(), []
        for job in jobs:
            found.append(pool.submit(drive, worker, job))
            time.sleep(0.3)
        assert [len(f.result()) for f in found] == [3, 3, 3]
    assert sizes == [3] * 12
    assert time.monotonic() - began < 60, "it waits no longer than that"


def test_the_first_step_does_not_wait_for_a_place_whose_trial_has_failed(six, tmp_path, sizes, monkeypatch):
    monkeypatch.setattr(workers, "_COMPANY_S", 60.0)
    monkeypatch.setattr(Execution, "begin", failing(Execution.begin, lambda c: c.length == 6))
    worker, jobs = Worker(), [job_of(config, tmp_path, packed=2) for config in (six[0], six[5])]
    began = time.monotonic()
    good, bad = together(worker, jobs)
    assert [good[-1]["status"], bad[-1]["status"]] == ["complete", "failed"]
    assert time.monotonic() - began < 60


def test_the_first_step_waits_in_vain_only_so_long(six, tmp_path, sizes, monkeypatch):
    monkeypatch.setattr(workers, "_COMPANY_S", 1.0)
    worker, job = Worker(), job_of(six[0], tmp_path, packed=3)
    began = time.monotonic()
    name = worker.admit(job)
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(worker.next, name)
        while not sizes:
            time.sleep(0.01)
        assert time.monotonic() - began >= 1.0
        assert report.result()["step"] == 4
    assert sizes == [1] * 4
    worker.evict(name)


def test_trials_that_come_during_a_step_are_all_in_the_next_one(six, tmp_path, sizes, monkeypatch):
    worker, jobs = Worker(), [job_of(config, tmp_path) for config in six[:4]]
    honest, stepping = Engine.advance, threading.Event()

    def advance(self):
        stepping.set()
        ends_at = time.monotonic() + 60
        while not sizes and worker._arriving < 3 and time.monotonic() < ends_at:
            time.sleep(0.01)  # the first step takes until the others have come
        return honest(self)

    monkeypatch.setattr(Engine, "advance", advance)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(drive, worker, jobs[0])
        assert stepping.wait(60)
        others = [pool.submit(drive, worker, job) for job in jobs[1:]]
        assert all(f.result()[-1]["status"] == "complete" for f in [first, *others])
    assert sizes[:2] == [1, 4]


def test_a_trial_that_is_long_in_the_making_is_waited_for_once(six, tmp_path, sizes, monkeypatch):
    monkeypatch.setattr(workers, "_LEAST_PATIENCE_S", 2.0)
    made, honest = threading.Event(), Execution.begin

    def begin(self):
        if self.config.length == 6:
            assert made.wait(60)
        return honest(self)

    monkeypatch.setattr(Execution, "begin", begin)
    worker, early, late = Worker(), job_of(six[0], tmp_path), job_of(six[5], tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(drive, worker, early)
        while not sizes:
            time.sleep(0.01)
        began = time.monotonic()
        second = pool.submit(drive, worker, late)
        assert first.result()[-1]["status"] == "complete"
        assert 2.0 <= time.monotonic() - began < 12, "waiting before each of the steps that are left takes 22 s"
        made.set()
        assert second.result()[-1]["status"] == "complete"
    assert sizes == [1] * 24


def test_a_trial_goes_on_from_its_checkpoint_in_another_worker(six, tmp_path):
    job = job_of(six[0], tmp_path)
    whole = list(execute(job_of(six[0], tmp_path, run="alone")))
    first = drive(Worker(), job, most=2)
    store, key = Store(tmp_path, "r"), json.loads(first[0]["record"])["key"]
    assert store.read_checkpoint(key)
    rest = drive(Worker(), job)
    assert [(r["step"], r["status"], r["restored"]) for r in rest] == [(8, "running", True), (12, "complete", False)]
    assert [r["note"] for r in rest] == ["continues at step 8", ""]
    assert what(rest[-1]) == what(whole[-1])
    assert not store.read_checkpoint(key)
    again = drive(Worker(), job)
    assert [r["status"] for r in again] == ["complete"], "a trial that is over does not run again"


def test_trials_are_saved_between_two_evaluations_and_come_back_with_the_earlier_one(six, tmp_path):
    whole = list(execute(job_of(six[0], tmp_path, run="alone")))
    worker, job = Worker(), job_of(six[0], tmp_path)
    name = worker.admit(job)
    assert worker.next(name)["step"] == 4
    trial = worker._seats[name].run.trial
    worker._in_turn(lambda: [trial.update() for _ in range(2)])
    worker.save()
    worker.evict(name)
    (cut_off,) = Store(tmp_path, "r").interrupted()
    assert cut_off == (trial.config, "c")
    rest = drive(Worker(), job)
    assert [(r["step"], r["status"], r["restored"]) for r in rest][:2] == [(4, "running", True), (8, "running", False)]
    assert rest[0]["note"] == "continues at step 6"
    assert what(rest[-1]) == what(whole[-1])


def test_a_damaged_checkpoint_is_said_and_ignored(six, tmp_path):
    job = job_of(six[0], tmp_path)
    key = resolve(six[0]).key
    Store(tmp_path, "r").write_checkpoint(key, 8, b"nothing")
    reports = drive(Worker(), job)
    assert [r["step"] for r in reports] == [4, 8, 12]
    assert reports[0]["note"].startswith("begins anew: ")
    assert "is damaged" in reports[0]["note"]
    assert reports[1]["note"] == ""
    assert not Store(tmp_path, "r").read_checkpoint(key)


def test_one_trial_that_fails_leaves_a_record_and_its_checkpoint_and_the_others_go_on(six, tmp_path, monkeypatch):
    honest = Trial.apply_gradients

    def apply_gradients(self, loss):
        if self.config.seed == 1 and self.step == 6:
            raise ArithmeticError("on purpose")
        honest(self, loss)

    monkeypatch.setattr(Trial, "apply_gradients", apply_gradients)
    found = together(Worker(), [job_of(config, tmp_path) for config in six])
    assert [reports[-1]["status"] for reports in found] == ["complete", "failed", *["complete"] * 4]
    store, record = Store(tmp_path, "r"), json.loads(found[1][-1]["record"])
    assert (record["steps"], record["error"]["message"]) == (6, "on purpose")
    assert store.read(record["key"]).status == "failed"
    assert store.read_checkpoint(record["key"]), "of step 4, to go on from when it is tried again"


def test_a_trial_that_cannot_be_made_is_a_failure(tiny, tmp_path):
    (report,) = drive(Worker(), job_of(tiny.replace(length=300), tmp_path))
    assert report["status"] == "failed"
    assert "window" in json.loads(report["record"])["error"]["message"]


def test_a_diverged_trial(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Trial, "record_evaluation", lambda self, found: setattr(self, "diverged", True))
    (report,) = drive(Worker(), job_of(tiny, tmp_path))
    assert report["status"] == "diverged"


def test_two_backbones_in_one_worker(tiny, tmp_path):
    jobs = [job_of(tiny.replace(precision=p), tmp_path) for p in ("fp32", "fp64")]
    worker = Worker()
    assert [reports[-1]["status"] for reports in together(worker, jobs)] == ["complete"] * 2
    wait_until(lambda: not worker._engines)


def test_who_is_silent_or_comes_again_is_let_go(six, tmp_path, monkeypatch):
    worker, job = Worker(), job_of(six[0], tmp_path)
    first = worker.admit(job)
    second = worker.admit(job)
    assert worker.next(first) is None
    assert worker.next(second)["step"] == 4
    monkeypatch.setattr(workers, "SILENCE_S", 0.2)
    other = worker.admit(job_of(six[1], tmp_path))  # wakes it up
    wait_until(lambda: not worker._seats)
    assert worker.next(second) is None
    assert worker.next(other) is None


def test_evicting_wakes_a_client_that_waits(six, tmp_path, monkeypatch):
    going, honest = threading.Event(), Engine.advance

    def advance(self):
        going.wait()
        return honest(self)

    monkeypatch.setattr(Engine, "advance", advance)
    worker = Worker()
    name = worker.admit(job_of(six[0], tmp_path))
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(worker.next, name)
        wait_until(lambda: worker._seats[name].training)
        worker.evict(name)
        assert report.result(10) is None
    going.set()
    assert drive(worker, job_of(six[1], tmp_path))[-1]["status"] == "complete"


def test_memory_is_given_back_now_and_then_while_others_train_and_when_nobody_does(six, tmp_path, monkeypatch):
    released = []
    monkeypatch.setattr(workers, "release_memory", lambda: released.append(len(worker._seats)))
    monkeypatch.setattr(workers, "_RELEASE_S", 60.0)
    worker = Worker()
    names = [worker.admit(job_of(config, tmp_path)) for config in six]
    for name in names[:3]:
        worker.evict(name)
        worker.call(dict)  # in the training thread, after what the eviction left for it
    assert released == [5]
    monkeypatch.setattr(workers, "_RELEASE_S", 0.0)
    worker.next(names[3])
    worker.call(dict)
    assert released == [5, 3], "put off, not left out"
    monkeypatch.setattr(workers, "_RELEASE_S", 60.0)
    for name in names[3:]:
        worker.evict(name)
        worker.call(dict)
    assert released == [5, 3, 0]


def test_a_worker_ends_when_it_has_been_idle_for_long(six, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "IDLE_S", 0.5)
    ended = threading.Event()
    monkeypatch.setattr(workers.os, "_exit", lambda code: ended.set())
    worker = Worker()
    name = worker.admit(job_of(six[0], tmp_path))
    threading.Thread(target=worker.until_death, daemon=True).start()
    assert not ended.wait(1)
    worker.evict(name)
    assert ended.wait(10)


def test_a_fault_of_the_engine_ends_its_trials_and_not_the_worker(six, tmp_path, monkeypatch):
    worker = Worker()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "advance", lambda self: 1 / 0)
        assert [r[-1]["status"] for r in together(worker, [job_of(c, tmp_path) for c in six[:2]])] == ["failed"] * 2
    assert drive(worker, job_of(six[2], tmp_path))[-1]["status"] == "complete"


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- where -----------------------------------------------------------------------------------------


def test_which_methods_share_a_backbone(tiny):
    sharing = {name for name in methods.names() if methods.get(name).shares_backbone}
    assert not sharing & {"lora", "fine_tuning"} and {"lopt1", "dept"} <= sharing
    allocation = Allocation(solo={}, shared={}, packed=4, concurrent=4, threads=1, shared_threads=2)
    assert allocation.terms(tiny) == {"shared": True, "threads": 2, "packed": 4}
    for alone in (tiny.replace(dropout=0.1), tiny.replace(method="fine_tuning", length=None, rank=None, options={})):
        assert allocation.terms(alone) == {"shared": False, "threads": 1, "packed": 4}


def test_what_a_trials_process_imports_is_without_torch():
    code = (
        "import sys, sweeps.on_ray.client, sweeps.work.worker, lopt.methods; lopt.methods.get('lopt1');"
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
