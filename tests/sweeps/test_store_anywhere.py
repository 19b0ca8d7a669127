"""A run's results in a folder and behind URLs, and whole sweeps with results in a stand-in for S3."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
import subprocess

import numpy as np
import pandas
import pytest

from lopt import checkpoint, load_prompt
from lopt.locations import to_location, write_file
from lopt.metrics import Predictions
from lopt.train_alone import train
from lopt.training import Trial
from sweeps.results import run_folder
from sweeps.results import store as store_module
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.run import main

SMALL = ["--space", "smoke", "--local-mode", "--set", "trials=2", "--set", "max_steps=6"]


@pytest.fixture
def store(anywhere):
    return Store(anywhere, "run")


@pytest.fixture(scope="module")
def record():
    from lopt.config import TrialConfig

    return train(
        TrialConfig(
            method="lopt1", task="toy", backbone="tiny", length=4, rank=2, learning_rate=0.1, max_steps=2, eval_every=2,
            precision="fp32",
        )
    )  # fmt: skip


def file_names(folder):
    return sorted(file.name for file in folder.glob("*"))


def test_records_predictions_and_table_are_written_and_read(store, record):
    assert store.read(record.key) is None
    assert store.records() == []
    predictions = Predictions(np.array([3, 5]), np.array([0, 1]), np.array([[1.0, 0.0], [2.0, 0.0]]))
    store.write_checkpoint(record.key, 2, b"bytes")
    store.write(record, predictions)
    assert store.read(record.key) == record
    assert store.records() == [record]
    assert file_names(store.folder / "trials") == [f"{record.key}.json"]
    assert file_names(store.folder / "checkpoints") == []
    file = store.folder / "predictions" / f"{record.key}.parquet"
    assert list(pandas.read_parquet(io.BytesIO(file.read_bytes())).predicted) == [0, 0]
    rows = pandas.read_parquet(io.BytesIO(store.write_table().read_bytes()))
    assert list(rows.key) == [record.key]


def test_manifest_and_baselines_are_written_and_read(store):
    assert store.manifest() is None
    assert store.baselines() == []
    fields = {"space": {}, "identity": "i", "profile": "paper", "command": ["x", "token=abc", "s3://me:pw@bucket"]}
    store.write_manifest(status="running", **fields)
    started_at = store.manifest()["started_at"]
    store.write_manifest(status="complete", **fields)
    manifest = store.manifest()
    assert (manifest["status"], manifest["started_at"]) == ("complete", started_at)
    assert manifest["command"] == ["x", "token=***", "s3://bucket"]
    store.write_baselines([{"backbone": "b", "task": "t"}])
    assert store.baselines() == [{"backbone": "b", "task": "t"}]


def test_damaged_and_failed_records_are_set_aside(store, record, capsys):
    store.write(record)
    store.path(record.key).write_bytes(b"{")
    assert store.records() == []
    assert "renamed to" in capsys.readouterr().out
    for number in (1, 2):
        store.write(record)
        store.set_aside(record)
        assert (store.folder / "trials" / f"{record.key}.failed-{number}.json").is_file()
    assert store.records() == []
    assert (store.folder / "trials" / f"{record.key}.json.damaged").is_file()


def test_checkpoints_are_removed_at_the_end_of_a_complete_sweep(store):
    store.write_checkpoint("0" * 16, 4, b"1")
    store.clear_checkpoints(complete=False)
    assert store.read_checkpoint("0" * 16) == b"1"
    store.clear_checkpoints(complete=True)
    assert file_names(store.folder / "checkpoints") == []


def test_a_process_that_is_behind_replaces_no_checkpoint(store):
    for step in (4, 8, 6):
        store.write_checkpoint("0" * 16, step, str(step).encode())
    assert store.read_checkpoint("0" * 16) == b"8"


def test_a_failed_write_gives_a_message_of_one_line_and_keeps_the_old_file(store, record, monkeypatch):
    failed = dataclasses.replace(record, status="failed")
    store.write(failed)

    def disk_full(*args):
        raise OSError(28, "No space left on device")

    for module in (run_folder, store_module):
        monkeypatch.setattr(module, "write_file", disk_full)
    with pytest.raises(StoreError, match="No space left on device") as caught:
        store.write_manifest(status="running", space={}, identity="", command=[], profile="")
    assert str(store) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    with pytest.raises(StoreError):
        store.write(record)
    assert store.read(record.key) == failed


def test_a_link_that_leads_out_of_the_results_folder_is_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside"):
        Store(tmp_path / "results", "run")
    (tmp_path / "link").symlink_to(tmp_path / "results")
    assert Store(tmp_path / "link", "other").folder.parent == tmp_path / "link", (
        "the results folder itself may be a link"
    )


# --- whole sweeps --------------------------------------------------------------------------------------------------


def results_by_key(out):
    return {
        record.key: (record.status, record.steps, record.tokens, record.selection_loss, record.test_loss)
        for record in Store(out, "smoke-paper").records()
    }


def test_a_sweep_with_results_in_s3_and_its_report(s3, tmp_path, monkeypatch, capsys):
    from analysis.report import main as report
    from analysis.runs import find_named_runs

    out = f"{s3}/some/results"
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--out", out]) == 0
    assert f"results in {out}/smoke-paper" in capsys.readouterr().out
    assert main([*SMALL, "--out", str(tmp_path / "here")]) == 0
    assert results_by_key(out) == results_by_key(tmp_path / "here")
    run = to_location(out) / "smoke-paper"
    assert {*file_names(run)} ^ {*file_names(tmp_path / "here" / "smoke-paper")} == {"lock", ".lock"}
    confirmed = next(record for record in Store(out, "smoke-paper").records() if record.phase == "confirm")
    assert load_prompt(f"{out}/smoke-paper/artifacts/{confirmed.key}").evaluate().accuracy == confirmed.test_accuracy
    assert not [file for file in tmp_path.iterdir() if file.name != "here"], "nothing stays on this machine"

    capsys.readouterr()
    assert main([*SMALL, "--out", out]) == 0
    assert "9 trials are finished" in capsys.readouterr().out
    assert report([f"{out}/smoke-paper"]) == 0
    assert (tmp_path / "smoke-paper-report" / "report.html").is_file()
    assert find_named_runs(["smoke-paper"], to_location(out)) == find_named_runs([], to_location(out)) == [run]
    capsys.readouterr()
    assert report([f"{out}/nothing"]) == 2
    assert report([f"{out}/smoke-paper", "--out", out]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_an_interrupted_sweep_in_s3_goes_on_from_its_checkpoint(s3, tmp_path, cut_off, capsys):
    cut_off(*SMALL, "--out", s3)
    assert len(file_names(to_location(s3) / "smoke-paper" / "checkpoints")) == 1
    capsys.readouterr()
    assert main([*SMALL, "--out", s3]) == 0
    assert "continues at step 4" in capsys.readouterr().out
    assert main([*SMALL, "--out", str(tmp_path)]) == 0
    assert results_by_key(s3) == results_by_key(tmp_path)


@pytest.mark.parametrize("first_bytes", [16, 1 << 16])
def test_a_checkpoint_is_described_without_being_read_as_a_whole(anywhere, tiny, monkeypatch, first_bytes):
    monkeypatch.setattr(checkpoint, "_FIRST_READ_BYTES", first_bytes)  # once shorter than the header, and once longer
    trial, path = Trial(tiny), to_location(anywhere) / "run" / "c.safetensors"
    next(iter(trial))
    content = trial.to_checkpoint(cell="here")
    write_file(path, content)
    parts, original = [], checkpoint.read_bytes_between

    def read_bytes_between(*arguments):
        parts.append(original(*arguments))
        return parts[-1]

    monkeypatch.setattr(checkpoint, "read_bytes_between", read_bytes_between)
    description = checkpoint.read_description(path)
    assert (description["key"], description["cell"], description["step"]) == (trial.config.key, "here", trial.step)
    assert sum(map(len, parts)) < len(content) or first_bytes > 16
    write_file(path, content[:100])
    with pytest.raises(ValueError):
        checkpoint.read_description(path)


def test_a_second_command_on_a_run_in_s3_is_refused(s3, capsys, monkeypatch):
    from sweeps.results import lock

    for name, seconds in {"RENEW_S": 0.05, "POLL_S": 0.02}.items():
        monkeypatch.setattr(lock, name, seconds)
    with Store(s3, "smoke-paper").hold(["python", "sweeps/run.py"]):
        assert main([*SMALL, "--out", s3]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "being worked on by another command: python sweeps/run.py, process" in error


def test_no_secret_is_written_to_the_results(s3, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_very-secret")
    assert main([*SMALL, "--out", s3]) == 0
    filesystem = to_location(s3).filesystem
    content = b"".join(filesystem.cat(filesystem.find(s3)).values())
    assert b"smoke" in content
    assert b"very-secret" not in content


@pytest.mark.parametrize("out", ["s3://", "nothing://x", "s3://no-such-bucket/results", "http://127.0.0.1:1/x"])
def test_a_url_that_cannot_be_used_gives_an_error_of_one_line(s3, capsys, out):
    assert main([*SMALL, "--out", out]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1, captured.err


# --- storage that fails ----------------------------------------------------------------------------------------------


def call_before_step(monkeypatch, number, action):
    """Call `action` before the training step of this number, counted over the whole sweep."""
    original, steps = Trial.update, []

    def update(self):
        steps.append(1)
        if len(steps) == number:
            action()
        return original(self)

    monkeypatch.setattr(Trial, "update", update)


def run_failing_sweep(out, capsys):
    """Run a sweep that ends with exit code 1 and an error of one line. Return that line."""
    capsys.readouterr()
    code = main([*SMALL, "--out", str(out)])
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert (code, len(lines)) == (1, 1), captured
    assert "Traceback" not in captured.out + captured.err
    assert "the same command continues" in lines[0]
    return lines[0]


def continue_sweep(out, earlier_results):
    """Run the same command to its end, and check that no finished trial has run again."""
    assert main([*SMALL, "--out", str(out)]) == 0
    results = results_by_key(out)
    assert len(results) == 9
    assert {key: results[key] for key in earlier_results} == earlier_results
    manifest = json.loads((to_location(out) / "smoke-paper" / "manifest.json").read_text())
    assert manifest["status"] == "complete"


def test_a_disk_that_fills_during_a_sweep(tmp_path, monkeypatch, capsys):
    original = store_module.write_file

    def disk_full(to, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        call_before_step(patch, 20, lambda: patch.setattr(store_module, "write_file", disk_full))
        assert "No space left on device" in run_failing_sweep(tmp_path, capsys)
    assert store_module.write_file is original
    results = results_by_key(tmp_path)
    assert results and all(status != "failed" for status, *_ in results.values())
    continue_sweep(tmp_path, results)


def test_a_real_disk_that_fills_during_a_sweep(small_disk, monkeypatch, capsys):
    filler = small_disk / "filler"

    def fill():
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 1024)

    with monkeypatch.context() as patch:
        call_before_step(patch, 20, fill)
        assert "No space left on device" in run_failing_sweep(small_disk, capsys)
    filler.unlink()
    continue_sweep(small_disk, results_by_key(small_disk))


def test_a_read_only_disk_before_and_during_a_sweep(small_disk, monkeypatch, capsys):
    def remount(mode):
        subprocess.run(["mount", "-o", f"remount,{mode}", str(small_disk)], check=True)

    def read_only(to, content):
        raise OSError(30, "Read-only file system")

    remount("ro")
    assert main([*SMALL, "--out", str(small_disk)]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "Read-only file system" in error
    remount("rw")
    with monkeypatch.context() as patch:
        # The disk cannot be remounted while a lock on it is open, so the write itself fails here.
        call_before_step(patch, 20, lambda: patch.setattr(store_module, "write_file", read_only))
        assert "Read-only file system" in run_failing_sweep(small_disk, capsys)
    continue_sweep(small_disk, results_by_key(small_disk))


def test_a_run_folder_that_disappears_during_a_sweep(tmp_path, monkeypatch, capsys):
    run, moved_run = tmp_path / "smoke-paper", tmp_path / "away"
    with monkeypatch.context() as patch:
        call_before_step(patch, 20, lambda: run.rename(moved_run))
        assert "manifest.json is gone" in run_failing_sweep(tmp_path, capsys)
    shutil.rmtree(run, ignore_errors=True)
    moved_run.rename(run)
    continue_sweep(tmp_path, results_by_key(tmp_path))


def test_a_bucket_that_cannot_be_reached_during_a_sweep(s3, monkeypatch, capsys):
    filesystem = to_location(s3).filesystem

    async def refused(*args, **kwargs):
        raise ConnectionRefusedError("no route to the bucket")

    with monkeypatch.context() as patch:
        call_before_step(patch, 20, lambda: patch.setattr(type(filesystem), "_call_s3", refused))
        assert "no route to the bucket" in run_failing_sweep(s3, capsys)
    # The lease was not given back, and its process is alive: it is this one.
    from sweeps.results import lock

    for name, seconds in {"LEASE_S": 2.0, "RENEW_S": 0.2, "POLL_S": 0.1}.items():
        monkeypatch.setattr(lock, name, seconds)
    continue_sweep(s3, results_by_key(s3))


def test_a_run_that_another_command_has_taken_is_left_alone(s3, monkeypatch, capsys):
    from sweeps.results.lock import _Lease

    with monkeypatch.context() as patch:
        call_before_step(patch, 20, lambda: patch.setattr(_Lease, "lost_reason", lambda self: "taken by another"))
        assert "taken by another" in run_failing_sweep(s3, capsys)
    assert json.loads((to_location(s3) / "smoke-paper" / "manifest.json").read_text())["status"] == "running"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mount = subprocess.run(command, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"cannot mount a file system here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
