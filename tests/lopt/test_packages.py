"""The cache folder and pinned packages: downloaded once, checked by hash, and refused in one line.

Here pip takes a local folder as its index.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import tempfile
import zipfile

import pytest
import torch
from safetensors import SafetensorError

from lopt import packages, train
from lopt.__main__ import main as predict
from lopt.artifact import Prompt
from lopt.backbones import embedded
from lopt.config import TrialConfig
from lopt.soft_prompt import SoftPrompt
from sweeps.run import main as sweep
from tests.bad_input import refused, run_command


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Make a folder with one made-up wheel the only index of pip. The value is the wheel's hash."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "lopt_made_up-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lopt_made_up/data.txt", "hello")
        archive.writestr(
            "lopt_made_up-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: lopt-made-up\nVersion: 1.0\n"
        )
        archive.writestr("lopt_made_up-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("lopt_made_up-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LOPT_CACHE_DIR", str(tmp_path / "cache"))
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_a_package_is_downloaded_only_once(index, monkeypatch):
    file = packages.fetch_package("lopt-made-up==1.0", index)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("lopt_made_up/data.txt") == b"hello"
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("fetched twice"))
    assert packages.fetch_package("lopt-made-up==1.0", index) == file


@pytest.mark.parametrize(("requirement", "digest"), [("lopt-made-up==1.0", "0" * 64), ("lopt-made-up==2.0", None)])
def test_a_wrong_hash_or_a_missing_package_is_one_line_and_leaves_no_folder(index, tmp_path, requirement, digest):
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        packages.fetch_package(requirement, digest or index)
    assert "LOPT_CACHE_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [entry for entry in (tmp_path / "cache" / "packages").iterdir() if entry.is_dir()]


def test_environment_variables_set_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_CACHE_DIR", str(tmp_path / "a"))
    assert packages.cache_dir() == tmp_path / "a"
    monkeypatch.delenv("LOPT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert packages.cache_dir() == tmp_path / "b" / "lopt"


# --- when nothing can be written --------------------------------------------------------------------------------------


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """Set a home folder that cannot be made, because its parent is a file. The value is the temporary folder."""
    (tmp_path / "file").write_text("")
    for name in ("LOPT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    packages._usable_cache_folder.cache_clear()
    yield tmp_path / "temporary"
    packages._usable_cache_folder.cache_clear()


def test_if_the_home_folder_cannot_hold_a_cache_a_temporary_one_is_used_with_a_note(homeless, capsys):
    folder = packages.cache_dir()
    assert (folder.parent, folder.is_dir()) == (homeless, True)
    assert packages.cache_dir() == folder
    assert packages.cache_entry("models", "a") == folder / "models" / "a"
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    for words in ("file/home/.cache/lopt cannot be written (Not a directory)", str(folder), "LOPT_CACHE_DIR"):
        assert words in line


def test_a_user_without_a_home_has_a_temporary_cache(homeless, capsys, monkeypatch):
    monkeypatch.delenv("HOME")

    def unknown_user(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown_user)
    assert packages.cache_dir().parent == homeless
    assert "there is no home folder" in capsys.readouterr().err


def test_a_full_disk_has_a_temporary_cache(homeless, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def fail(dir):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    assert packages.cache_dir().parent == homeless
    assert "No space left on device" in capsys.readouterr().err


def test_a_temporary_cache_that_others_can_write_is_not_used(homeless, capsys):
    unsafe = packages.cache_dir()
    unsafe.chmod(0o777)
    packages._usable_cache_folder.cache_clear()
    folder = packages.cache_dir()
    assert (folder != unsafe, folder.parent) == (True, homeless)
    assert folder.stat().st_mode & 0o077 == 0


def test_the_entries_of_a_read_only_cache_are_used(index, monkeypatch):
    file = packages.fetch_package("lopt-made-up==1.0", index)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for name in ("cache_dir", "FileLock", "_download"):
        monkeypatch.setattr(packages, name, read_only)
    assert packages.fetch_package("lopt-made-up==1.0", index) == file
    monkeypatch.undo()


@pytest.mark.parametrize("step", ["_download", "FileLock"])
def test_a_cache_that_cannot_be_written_is_refused_in_one_line(index, tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(packages, step, fail)
    with pytest.raises(ValueError, match=r"cache/packages cannot be written \(No space left on device\)") as caught:
        packages.fetch_package("lopt-made-up==1.0", index)
    assert "LOPT_CACHE_DIR" in str(caught.value)


def test_weights_that_cannot_be_unpacked_are_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_CACHE_DIR", str(tmp_path))

    def fail(folder):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(embedded, "_convert_package", fail)
    with pytest.raises(ValueError, match=r"models cannot be written \(.*No space left.*LOPT_CACHE_DIR"):
        embedded.folder()


@pytest.mark.parametrize("cache", ["file/cache", "file"])
def test_every_command_refuses_a_named_cache_that_cannot_be_made_in_one_line(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOPT_CACHE_DIR", str(tmp_path / cache))
    config = TrialConfig(method="prompt_tuning", task="toy", length=1, precision="fp32")
    X = torch.zeros(1, 576)
    prompt = Prompt(config, {"X": X}, SoftPrompt(prompt=X)).save(tmp_path / "prompt")
    words = [str(tmp_path / cache), "cannot be written", "LOPT_CACHE_DIR"]
    refused(predict, "predict", "--prompt", prompt, "--text", "warm", words=words)
    code, _, err = run_command(
        sweep, "--space", "smoke", "--set", "task=movie_snippets", "--local-mode", "--out", tmp_path / "results"
    )
    assert code == 2
    assert all(word in err for word in words)
    assert len(err.splitlines()) == 1


def test_a_prompt_predicts_and_a_sweep_runs_without_a_cache(homeless, tmp_path, tiny):
    prompt = tmp_path / "prompt"
    train(tiny.replace(options={"placement": "suffix"}), artifact=prompt)
    assert run_command(predict, "predict", "--prompt", prompt, "--text", "warm")[0] == 0
    code, _, err = run_command(sweep, "--space", "smoke", "--local-mode", "--out", tmp_path / "results")
    assert code == 0
    assert all("LOPT_CACHE_DIR" in line for line in err.splitlines())
