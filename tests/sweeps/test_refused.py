"""A refused command says why in one line, and changes no file."""

from __future__ import annotations

import pytest

from lopt.locations import to_location
from sweeps.results import lock
from sweeps.results.lock import hold_run
from sweeps.run import main
from tests.bad_input import error_line, run_command

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=2", "--set", "eval_every=1", "--set", "trials=1"]
TASK_TOML = 'columns = ["text"]\nclasses = ["a", "b"]\ntemplate = "{text} is"\nlabel_words = [" a", " b"]\n'


def contents(folder):
    """Return the content of every file below a folder, and None for every folder; lock files are left out."""
    return {file: file.read_bytes() if file.is_file() else None for file in folder.rglob("*") if file.name != ".lock"}


@pytest.fixture
def tasks(tmp_path):
    """Return a folder of tasks that cannot be trained on: one without data, one with a single class, one empty."""
    for name in ("no-data", "one-class", "empty"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
    for name in ("no-data", "one-class"):
        settings = TASK_TOML + 'train = "train.csv"\nreport = "test.csv"\n'
        (tmp_path / "tasks" / name / "task.toml").write_text(settings)
    for split in ("train", "test"):
        (tmp_path / "tasks" / "one-class" / f"{split}.csv").write_text("text,label\n" + "good,a\n" * 20)
    return tmp_path / "tasks"


def test_results_in_memory_are_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", *SMALL, "--out", "memory://x"])
    code = main()
    line = error_line(code, *capsys.readouterr())
    assert "--out memory://x: results in memory are lost when the command ends" in line


REFUSED_ARGUMENTS = {
    "unknown key": ["--set", "lr=1"],
    "unknown task": ["--set", "task=nowhere"],
    "folder without a task": ["--set", "task={tasks}/empty"],
    "task without data": ["--set", "task={tasks}/no-data"],
    "task of one class": ["--set", "task={tasks}/one-class"],
    "missing data": ["--set", "task=sst2"],
    "missing run to reuse": ["--reuse", "nothing"],
    "missing run for a warm start": ["--warm-start", "nothing"],
    "name with a space": ["--name", "a b"],
    "time without a unit": ["--max-wall-time", "2"],
    "probe of missing data": ["--set", "task=sst2", "--probe"],
    "fresh run on missing data": ["--set", "task=sst2", "--fresh"],
}


@pytest.mark.parametrize("arguments", REFUSED_ARGUMENTS.values(), ids=list(REFUSED_ARGUMENTS))
@pytest.mark.parametrize("run_exists", [False, True], ids=["new run", "existing run"])
def test_a_refused_command_changes_no_file(tmp_path, tasks, arguments, run_exists):
    out = tmp_path / "deep" / "results"
    if run_exists:
        assert run_command(main, *SMALL, "--out", out)[0] == 0
    before = contents(tmp_path)
    arguments = [argument.format(tasks=tasks) for argument in arguments]
    error_line(*run_command(main, *SMALL, "--out", out, *arguments))
    assert contents(tmp_path) == before
    assert run_exists or not (tmp_path / "deep").exists()
    if run_exists:
        assert run_command(main, *SMALL, "--out", out)[0] == 0, "the run can go on"


def test_an_empty_folder_of_the_user_stays_and_stays_empty(tmp_path):
    (tmp_path / "out").mkdir()
    error_line(*run_command(main, *SMALL, "--out", tmp_path / "out", "--name", "a", "--set", "task=sst2"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_run_set_aside_by_fresh_is_restored_if_no_trial_begins(tmp_path):
    assert run_command(main, *SMALL, "--out", tmp_path)[0] == 0
    code, out, err = run_command(main, *SMALL, "--out", tmp_path, "--fresh", "--set", "task=sst2")
    error_line(code, out, err)
    assert "the earlier results of run smoke-paper have been restored, because no trial has begun" in out
    assert [folder.name for folder in tmp_path.iterdir()] == ["smoke-paper"]


def test_a_run_that_has_not_begun_leaves_no_file_in_any_store(anywhere):
    folder = to_location(anywhere) / "run"
    for _ in range(2):
        with hold_run(folder, ["command"]):
            pass
        assert not [file.name for file in folder.glob("*")]


def test_a_lock_is_taken_again_if_another_command_removes_the_folder(tmp_path, monkeypatch):
    """The folder vanishes after it was made and before it is locked: another command, which was refused, removes it."""
    folder, attempts = tmp_path / "run", []
    original_acquire = lock.FileLock.acquire

    def acquire(self, *arguments, **options):
        attempts.append(1)
        if len(attempts) == 1:
            folder.rmdir()
        acquired = original_acquire(self, *arguments, **options)
        if len(attempts) == 1:
            (folder / ".lock").unlink(missing_ok=True)
        return acquired

    monkeypatch.setattr(lock.FileLock, "acquire", acquire)
    with hold_run(folder, []):
        assert (folder / ".lock").is_file()
        assert len(attempts) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name", "a" * 300], ["run name 'aaaaaaaaaaaaaaaaaaaa…' has 300 characters", "at most 100"]),
        (["--name", "a/b"], ["give a letter or digit, and then letters, digits"]),
        (["--max-wall-time", "2"], ["'2' has no unit", "2s, 2m or 2h"]),
        (["--max-trial-time", "1.5"], ["'1.5' has no unit", "1.5s, 1.5m or 1.5h"]),
        (["--max-wall-time", "2d"], ["'2d' is not a duration", "90s, 30m or 2h"]),
    ],
)
def test_a_wrong_option_says_what_is_valid(arguments, words):
    line = error_line(*run_command(main, *SMALL, "--dry-run", *arguments))
    assert all(word in line for word in words)
