"""Pinned packages: fetched once, checked, one line when they cannot be had. pip takes a folder as its index here."""

from __future__ import annotations

import hashlib
import zipfile

import pytest

from lopt import packages


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes as its only index, with one made-up wheel; returns the wheel's hash."""
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


def test_a_package_is_fetched_once(index, monkeypatch):
    file = packages.fetch("lopt-made-up==1.0", index)
    with zipfile.ZipFile(file) as archive:
        assert archive.read("lopt_made_up/data.txt") == b"hello"
    monkeypatch.setattr("subprocess.run", lambda *a, **k: pytest.fail("fetched twice"))
    assert packages.fetch("lopt-made-up==1.0", index) == file


@pytest.mark.parametrize(("requirement", "digest"), [("lopt-made-up==1.0", "0" * 64), ("lopt-made-up==2.0", None)])
def test_another_hash_or_a_missing_package_is_one_line_and_leaves_nothing(index, tmp_path, requirement, digest):
    with pytest.raises(ValueError, match="could not be downloaded") as caught:
        packages.fetch(requirement, digest or index)
    assert "LOPT_CACHE_DIR" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [p for p in (tmp_path / "cache" / "packages").iterdir() if p.is_dir()]


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("LOPT_CACHE_DIR", str(tmp_path / "a"))
    assert packages.cache_dir() == tmp_path / "a"
    monkeypatch.delenv("LOPT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert packages.cache_dir() == tmp_path / "b" / "lopt"
