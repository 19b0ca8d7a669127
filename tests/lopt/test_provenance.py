"""A checkout counts as dirty if its code has changed. Other files do not count."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder, *arguments):
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def clean_checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "lopt", folder / "lopt", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sweeps", "analysis"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("")
    for name in ("README.md", "cluster.yaml"):
        (folder / name).write_text("read me")
    (folder / ".gitignore").write_text("__pycache__/\n/results/\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "all")
    return folder


def dirty_flag(folder):
    code = "from lopt import records; print(records.__file__); print(records.collect_provenance()['dirty'])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True, env=environment
    )
    file, flag = result.stdout.split("\n")[:2]
    assert Path(file).resolve() == (folder / "lopt" / "records.py").resolve()
    return {"True": True, "False": False, "None": None}[flag]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, False),
        ("tasks/mine/task.toml", False),
        ("tasks/mine/train.csv", False),
        ("tasks/mine/prepare.py", False),
        ("results/run/manifest.json", False),
        ("space.py", False),
        ("lopt/tasks/notes.txt", False),
        ("lopt/methods/mine.py", True),
        ("sweeps/spaces/new folder/mine.py", True),
        ("analysis/plots/mine.py", True),
        ("lopt/config.py", True),
        ("README.md", False),
        ("cluster.yaml", False),
    ],
)
def test_only_changes_of_the_code_make_a_checkout_dirty(clean_checkout, tmp_path, name, expected):
    folder = tmp_path / "checkout"
    shutil.copytree(clean_checkout, folder)
    if name:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            file.write("\n")
    assert dirty_flag(folder) is expected


def test_a_deleted_or_staged_file_makes_a_checkout_dirty(clean_checkout, tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(clean_checkout, folder)
    (folder / "sweeps" / "__init__.py").unlink()
    assert dirty_flag(folder) is True
    git(folder, "add", "-A")
    assert dirty_flag(folder) is True


def test_a_package_outside_of_a_checkout_has_no_dirty_flag(clean_checkout, tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(clean_checkout, folder, ignore=shutil.ignore_patterns(".git"))
    assert dirty_flag(folder) is None
