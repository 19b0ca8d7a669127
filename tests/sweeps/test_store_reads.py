"""A store that cannot be read for a moment: nothing is lost by it, and no trial counts as failed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lopt import checkpoint
from lopt.locations import RemoteLocation, local_copy, location, write
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
def begun(out, cut_off):
    """A sweep whose first trial has a checkpoint at step 4; where that lies."""
    cut_off(*SMALL, "--out", out)
    (checkpoint,) = (location(out) / "smoke-paper" / "checkpoints").glob("*")
    return checkpoint


def stale(honest):
    def read(self, *given):
        if self.name.endswith(".safetensors"):
            raise OSError(116, "Stale file handle")
        return honest(self, *given)

    return read


def ended(out, capsys, code=1):
    """A command that ends with one line, exit code 1 and no failed trial; then the same one, which goes on."""
    capsys.readouterr()
    assert main([*SMALL, "--out", out]) == code
    said = capsys.readouterr()
    (line,) = said.err.strip().splitlines()
    assert "Stale file handle" in line and "the same command continues" in line
    assert "begins anew" not in said.out
    assert Store(out, "smoke-paper").records() == []


@pytest.mark.parametrize("method", ["read_bytes", "is_file"])
def test_a_checkpoint_that_cannot_be_read_for_a_moment_is_kept_and_gone_on_from(
    out, begun, monkeypatch, capsys, method
):
    content = begun.read_bytes()
    with monkeypatch.context() as patch:
        for kind in (Path, RemoteLocation):
            patch.setattr(kind, "read_bytes", stale(kind.read_bytes))
            patch.setattr(kind, method, stale(getattr(kind, method)))
        ended(out, capsys)
    assert begun.read_bytes() == content
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


def test_checkpoints_that_cannot_be_listed_for_a_moment_are_not_left_out(out, begun, monkeypatch, capsys):
    def read_part(file, begin, end):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read_part", read_part)
        ended(out, capsys, code=2)  # nothing has begun
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


def test_a_damaged_checkpoint_still_begins_anew(out, begun, capsys):
    write(begun, begun.read_bytes()[:-20])
    assert main([*SMALL, "--out", out]) == 0
    assert "begins anew: its checkpoint is damaged (" in capsys.readouterr().out


def test_memory_that_runs_out_damages_no_checkpoint(out, begun, monkeypatch, capsys):
    content = begun.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Trial, "restore", lambda self, checkpoint: (_ for _ in ()).throw(MemoryError()))
        assert main([*SMALL, "--out", out]) == 3
    assert begun.read_bytes() == content
    assert main([*SMALL, "--out", out]) == 0
    assert "continues at step 4" in capsys.readouterr().out


@pytest.fixture
def half(monkeypatch, tiny):
    """A run in memory with a record and its artifact, of which one file cannot be read."""
    store, honest = Store(f"memory://{uuid.uuid4().hex}", "half"), MemoryFileSystem.cat_file
    record = make_record(tiny)
    store.write(record)
    for name in ("prompt.json", "prompt.safetensors", "more/inside"):
        write(store.artifact(record.key) / name, b"content")

    def cat_file(self, path, *given, **more):
        if path.endswith("prompt.safetensors"):
            raise TimeoutError("it took too long")
        return honest(self, path, *given, **more)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    return store, record


def test_a_folder_is_at_hand_whole_or_not_at_all(half):
    store, record = half
    folder = store.artifact(record.key)
    with pytest.raises(OSError, match="it took too long"), local_copy(folder):
        pass
    (folder / "prompt.safetensors").unlink()
    with local_copy(folder) as here:
        assert [file.name for file in here.iterdir()] == ["prompt.json"], "a folder in it is none of its files"


def test_a_trial_of_another_run_is_taken_with_all_its_files_or_not(half, tmp_path):
    other, record = half
    store = Store(tmp_path, "run")
    with pytest.raises(StoreError, match="it took too long"):
        store.adopt(record, other)
    assert store.read(record.key) is None
