"""A command that is refused says why in one line, and leaves everything as it found it."""

from __future__ import annotations

import pytest

from lopt.locations import location
from sweeps.results import lock
from sweeps.results.lock import held
from sweeps.run import main
from tests.bad_input import called, line_of

SMALL = ["--space", "smoke", "--local-mode", "--set", "max_steps=2", "--set", "eval_every=1", "--set", "trials=1"]
NO_WORDS = 'columns = ["text"]\nclasses = ["a", "b"]\ntemplate = "{text} is"\nlabel_words = [" a", " b"]\n'


def files(folder):
    return {file: file.read_bytes() if file.is_file() else None for file in folder.rglob("*") if file.name != ".lock"}


@pytest.fixture
def tasks(tmp_path):
    """Folders of tasks that cannot be trained on: no data, one class alone, no task at all."""
    for name in ("no-data", "one-class", "empty"):
        (tmp_path / "tasks" / name).mkdir(parents=True)
    for name in ("no-data", "one-class"):
        settings = NO_WORDS + 'train = "train.csv"\nreport = "test.csv"\n'
        (tmp_path / "tasks" / name / "task.toml").write_text(settings)
    for split in ("train", "test"):
        (tmp_path / "tasks" / "one-class" / f"{split}.csv").write_text("text,label\n" + "good,a\n" * 20)
    return tmp_path / "tasks"


def test_what_is_kept_in_memory_would_end_with_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["run.py", *SMALL, "--out", "memory://x"])
    code = main()
    said = line_of(code, *capsys.readouterr())
    assert "--out memory://x: what is kept there ends with the command" in said


REFUSED = {
    "an unknown key": ["--set", "lr=1"],
    "an unknown task": ["--set", "task=nowhere"],
    "a folder that is no task": ["--set", "task={tasks}/empty"],
    "a task without data": ["--set", "task={tasks}/no-data"],
    "a task of one class": ["--set", "task={tasks}/one-class"],
    "data that are not here": ["--set", "task=sst2"],
    "a run to reuse": ["--reuse", "nothing"],
    "a run to learn from": ["--warm-start", "nothing"],
    "a name": ["--name", "a b"],
    "a time without a unit": ["--max-wall-time", "2"],
    "a probe of data that are not here": ["--set", "task=sst2", "--probe"],
    "fresh, with data that are not here": ["--set", "task=sst2", "--fresh"],
}


@pytest.mark.parametrize("more", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_a_refused_command_leaves_all_as_it_was(tmp_path, tasks, more, begun):
    out = tmp_path / "deep" / "results"
    if begun:
        assert called(main, *SMALL, "--out", out)[0] == 0
    before = files(tmp_path)
    more = [word.format(tasks=tasks) for word in more]
    line_of(*called(main, *SMALL, "--out", out, *more))
    assert files(tmp_path) == before
    assert begun or not (tmp_path / "deep").exists()
    if begun:
        assert called(main, *SMALL, "--out", out)[0] == 0, "and the run can go on"


def test_an_empty_folder_of_the_users_stays_and_stays_empty(tmp_path):
    (tmp_path / "out").mkdir()
    line_of(*called(main, *SMALL, "--out", tmp_path / "out", "--name", "a", "--set", "task=sst2"))
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


def test_a_run_put_aside_comes_back_when_nothing_has_begun(tmp_path):
    assert called(main, *SMALL, "--out", tmp_path)[0] == 0
    code, out, err = called(main, *SMALL, "--out", tmp_path, "--fresh", "--set", "task=sst2")
    line_of(code, out, err)
    assert "run smoke-paper is as it was, for nothing has begun" in out
    assert [folder.name for folder in tmp_path.iterdir()] == ["smoke-paper"]


def test_nothing_of_a_run_that_has_not_begun_stays_anywhere(anywhere):
    folder = location(anywhere) / "run"
    for _ in range(2):
        with held(folder, ["command"]):
            pass
        assert not [file.name for file in folder.glob("*")]


def test_two_commands_on_a_folder_that_goes_and_comes(tmp_path, monkeypatch):
    """The folder vanishes between being made and being locked, as another command that was refused may do."""
    folder, times = tmp_path / "run", []
    honest = lock.FileLock.acquire

    def acquire(self, *arguments, **options):
        times.append(1)
        if len(times) == 1:
            folder.rmdir()
        found = honest(self, *arguments, **options)
        if len(times) == 1:
            (folder / ".lock").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(lock.FileLock, "acquire", acquire)
    with held(folder, []):
        assert (folder / ".lock").is_file()
        assert len(times) == 2


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--name", "a" * 300], ["run name 'aaaaaaaaaaaaaaaaaaaa…' has 300 characters", "at most 100"]),
        (["--name", "a/b"], ["give letters, digits"]),
        (["--max-wall-time", "2"], ["'2' has no unit", "2s, 2m or 2h"]),
        (["--max-trial-time", "1.5"], ["'1.5' has no unit", "1.5s, 1.5m or 1.5h"]),
        (["--max-wall-time", "2d"], ["'2d' is no time", "90s, 30m, 2h"]),
    ],
)
def test_what_is_wrong_with_a_flag(more, words):
    line = line_of(*called(main, *SMALL, "--dry-run", *more))
    assert all(word in line for word in words)
