"""The package works outside its checkout, and its commands refuse a Python that is too old."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lopt
from lopt import commands, python_version
from sweeps import run
from tests.conftest import ROOT

ENTRIES = ("lopt/__init__.py", "lopt/__main__.py", "sweeps/__init__.py", "sweeps/run.py", "analysis/__init__.py",
           "analysis/report.py", "lopt/python_version.py")  # fmt: skip
PROGRAMS = {"lopt": "lopt.__main__:main", "lopt-sweep": "sweeps.run:script", "lopt-report": "analysis.report:main"}


# --- an old Python -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 6), (3, 7), (3, 10)])
@pytest.mark.parametrize("entry", ENTRIES)
def test_an_old_python_can_parse_the_files_of_the_commands(entry, version):
    source = (ROOT / entry).read_text(encoding="utf-8")
    ast.parse(source, feature_version=version)
    assert "from __future__ import annotations" not in source, "Python 3.6 does not know it"
    if entry in ("sweeps/run.py", "analysis/report.py"):  # scripts, which run before `lopt` is imported
        before_check = source.partition("import lopt.python_version")[0]
        assert "dataclasses" not in before_check, "Python 3.6 does not know it"


def test_an_old_python_is_refused_in_one_line():
    assert python_version.version_error((3, 11, 0)) == python_version.version_error((4, 0)) == ""
    for version in ((3, 6, 8), (3, 10, 14), (2, 7, 18)):
        line = python_version.version_error(version)
        assert "Python 3.11 or newer is needed" in line
        assert f"this is Python {version[0]}.{version[1]}:" in line
        assert "\n" not in line
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert needed == ">={}.{}".format(*python_version.MINIMUM)


@pytest.mark.parametrize("command", [["sweeps/run.py", "--space", "smoke"], ["analysis/report.py"], ["-m", "lopt"]])
def test_each_command_refuses_an_old_python_before_it_imports_anything_else(command):
    """Run each command in a Python that reports version 3.9 and has no third-party packages."""
    words = ["-m", "lopt", "predict"] if command[0] == "-m" else command
    code = (
        "import sys, runpy\nsys.version_info = (3, 9, 2, 'final', 0)\nsys.path.insert(0, '.')\n"
        f"sys.argv = {words[1:] if words[0] == '-m' else words!r}\n"
        + ("runpy.run_module('lopt', run_name='__main__')" if words[0] == "-m" else
           f"runpy.run_path({words[0]!r}, run_name='__main__')")
    )  # fmt: skip
    process = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: Python 3.11 or newer is needed, and this is Python 3.9:")


# --- names -------------------------------------------------------------------------------------------------------


def test_the_package_lists_its_public_names():
    assert set(lopt.__all__) <= set(dir(lopt))
    code = "import lopt, sys; print(dir(lopt)); assert 'torch' not in sys.modules"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(lopt.__all__) <= set(ast.literal_eval(listed))


def test_commands_are_printed_in_a_form_that_a_shell_can_run(monkeypatch, tmp_path):
    assert commands.command_line("report", "my results/a") == "python analysis/report.py 'my results/a'"
    assert commands.command_line("lopt", "run", "--config", "it's") == """python -m lopt run --config 'it'"'"'s'"""
    monkeypatch.setattr(commands, "_ROOT", tmp_path)
    assert commands.command_line("sweep", "--space", "smoke") == "lopt-sweep --space smoke"
    assert [commands.command_words(name)[0] for name in ("lopt", "sweep", "report")] == list(PROGRAMS)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"] == PROGRAMS


def test_a_results_path_with_blanks_is_quoted_for_a_shell(tmp_path, capsys):
    out = tmp_path / "my results"
    assert run.main(["--space", "smoke", "--local-mode", "--set", "trials=1", "--out", str(out)]) == 0
    out_text = capsys.readouterr().out
    (words,) = [shlex.split(line)[1:] for line in out_text.splitlines() if line.startswith("report: ")]
    assert words[:2] == ["python", "analysis/report.py"]
    assert Path(words[2]) == out / "smoke-paper"


# --- the wheel ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A new environment with the wheel installed. It borrows the other packages of this one, but not this checkout."""
    root = tmp_path_factory.mktemp("installed")
    source = root / "source"
    for folder in ("lopt", "sweeps", "analysis"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", root, source], check=True)
    (wheel,) = root.glob("lopt_sweep-*.whl")
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "venv"], check=True)
    python = root / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (site,) = (root / "venv" / "lib").glob("python*/site-packages")
    links = root / "links"  # to all packages except this one: its editable install must not be found
    links.mkdir()
    for entry in _other_packages():
        (links / entry.name).exists() or (links / entry.name).symlink_to(entry)
    (site / "of_the_tests.pth").write_text(f"{links}\n")
    return root


def _other_packages():
    """Yield the files and folders of `site-packages` that do not belong to this package."""
    for folder in dict.fromkeys(path for path in sys.path if path.endswith("site-packages")):
        for entry in Path(folder).iterdir():
            if "lopt" not in entry.name and entry.suffix != ".pth":
                yield entry


@pytest.fixture
def run_program(installed, tmp_path):
    """A function that runs one of the programs in an empty folder and returns its standard output."""

    def run_in_folder(*argv):
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment |= {"HF_HUB_OFFLINE": "1", "LOPT_CACHE_DIR": str(tmp_path / "cache")}
        words = [str(word) for word in argv]
        words[0] = str(installed / "venv" / "bin" / words[0])
        process = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert process.returncode == 0, (process.stdout, process.stderr)
        return process.stdout

    return run_in_folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_works_outside_the_checkout(installed, run_program, tmp_path):
    print_files = "import lopt, sweeps, analysis; print(lopt.__file__, sweeps.__file__, analysis.__file__)"
    for file in run_program("python", "-c", print_files).split():
        assert Path(file).is_relative_to(installed / "venv")
    for space in ("ablation", "table1", "table2", "frontier", "search", "smoke"):
        assert f"space {space}" in run_program("lopt-sweep", "--space", space, "--dry-run")
    sweep_output = run_program("lopt-sweep", "--space", "smoke", "--local-mode")
    assert "report: lopt-report results/smoke-paper" in sweep_output
    manifest = json.loads((tmp_path / "results" / "smoke-paper" / "manifest.json").read_text())
    assert (manifest["command"][0], manifest["provenance"]["commit"]) == ("lopt-sweep", None)
    assert "continuing run smoke-paper: 12 trials are finished" in run_program(
        "lopt-sweep", "--space", "smoke", "--local-mode"
    )
    assert "report: results/smoke-paper/report/report.html" in run_program("lopt-report")
    page = (tmp_path / "results" / "smoke-paper" / "report" / "report.html").read_text()
    assert len(re.findall(r"<svg", page)) >= 3
    artifact = next((tmp_path / "results" / "smoke-paper" / "artifacts").iterdir())
    (answer,) = map(
        json.loads, run_program("lopt", "predict", "--prompt", artifact, "--text", "warm", "--json").splitlines()
    )
    assert answer["label"] in ("negative", "positive")
    record = tmp_path / "results" / "smoke-paper" / "trials" / f"{artifact.name}.json"
    assert "equal to its record" in run_program("python", "-m", "lopt", "run", "--config", record)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_wheel_sweeps_on_ray(run_program, tmp_path):
    assert "complete: " in run_program("lopt-sweep", "--space", "smoke", "--set", "trials=1")
