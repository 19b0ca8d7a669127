"""A store that cannot be read for a moment: nothing is lost, and no trial counts as failed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lopt import checkpoint
from lopt.locations import RemoteLocation, local_copy, to_location, write_file
from lopt.training import Trial
from sweeps.results.run_folder import StoreError
from sweeps.results.store import Store
from sweeps.run import main
from tests.sweeps.records import make_record

SMALL = ["--space", "smoke", "--local-mode", "--set", "trials=1", "--set", "max_steps=6"]


@pytest.fixture(params=["folder", "memory"])
def out(request, tmp_path):
    return str(tmp_path) if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def first_checkpoint(out, cut_off):
    """The file of the only checkpoint of an interrupted sweep: its first trial's, at step 4."""
    cut_off(*SMALL, "--out", out)
    (checkpoint,) = (to_location(out) / "smoke-paper" / "checkpoints").glob("*")
    return checkpoint


def raise_for_checkpoints(original):
    """Return a method of paths that raises an error for the path of a checkpoint, and else calls `original`."""

    def method(self, *arguments):
        if self.name.endswith(".safetensors"):
            raise OSError(116, "Stale file handle")
        return original(self, *arguments)

    return method


def check_sweep_ends(out, capsys, code=1):
    """Run the sweep, and check that it ends with this exit code, an error of one line and no failed trial."""
    capsys.readouterr()
    assert main([*SMALL, "--out", out]) == code
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert "Stale file handle" in line and "the same command continues" in line
    assert "starts over" not in captured.out
    assert Store(out, "smoke-paper").records() == []


@pytest.mark.parametrize("method", ["read_bytes", "is_file"])
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_kept_and_used_later(
    out, first_checkpoint, monkeypatch, capsys, method
):
    content = first_checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        for path_class in (Path, RemoteLocation):
            patch.setattr(path_class, "read_bytes", raise_for_checkpoints(path_class.read_bytes))
            patch.setattr(path_class, method, raise_for_checkpoints(getattr(path_class, method)))
        check_sweep_ends(out, capsys)
    assert first_checkpoint.read_bytes() == content
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


def test_checkpoints_that_cannot_be_described_for_a_moment_are_not_left_out(out, first_checkpoint, monkeypatch, capsys):
    def read_bytes_between(file, begin, end):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_bytes_between", read_bytes_between)
        check_sweep_ends(out, capsys, code=2)  # no trial has begun
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


def test_a_trial_with_a_damaged_checkpoint_starts_over(out, first_checkpoint, capsys):
    write_file(first_checkpoint, first_checkpoint.read_bytes()[:-20])
    assert main([*SMALL, "--out", out]) == 0
    assert "starts over: its checkpoint is damaged (" in capsys.readouterr().out


def test_a_checkpoint_is_kept_when_memory_runs_out(out, first_checkpoint, monkeypatch, capsys):
    content = first_checkpoint.read_bytes()

    def restore(self, checkpoint):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "restore", restore)
        assert main([*SMALL, "--out", out]) == 3
    assert first_checkpoint.read_bytes() == content
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


@pytest.fixture
def half_readable_run(monkeypatch, tiny):
    """A run in memory with a record and its artifact. One file of the artifact cannot be read."""
    store, original = Store(f"memory://{uuid.uuid4().hex}", "half"), MemoryFileSystem.cat_file
    record = make_record(tiny)
    store.write(record)
    for name in ("prompt.json", "prompt.safetensors", "more/inside"):
        write_file(store.artifact_folder(record.key) / name, b"content")

    def cat_file(self, path, *arguments, **options):
        if path.endswith("prompt.safetensors"):
            raise TimeoutError("it took too long")
        return original(self, path, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return store, record


def test_a_local_copy_of_a_folder_is_whole_or_fails(half_readable_run):
    store, record = half_readable_run
    folder = store.artifact_folder(record.key)
    with pytest.raises(OSError, match="it took too long"), local_copy(folder):
        pass
    (folder / "prompt.safetensors").unlink()
    with local_copy(folder) as copy:
        assert [file.name for file in copy.iterdir()] == ["prompt.json"], "folders inside are not copied"


def test_a_trial_of_another_run_is_adopted_with_all_its_files_or_not_at_all(half_readable_run, tmp_path):
    source, record = half_readable_run
    store = Store(tmp_path, "run")
    with pytest.raises(StoreError, match="it took too long"):
        store.adopt(record, source)
    assert store.read(record.key) is None
