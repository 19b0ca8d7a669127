"""The files of running trials: what they hold while a trial runs, and that they vanish when it ends."""

from __future__ import annotations

import json
import pickle
import threading
from types import SimpleNamespace

import cloudpickle
import pytest

from lopt.locations import to_location
from sweeps import spaces, trackers
from sweeps.background import BackgroundCalls
from sweeps.budget import Budget
from sweeps.listener import Listener
from sweeps.options import Options
from sweeps.results.running_files import RunningFiles
from sweeps.results.store import Store
from sweeps.run import main
from sweeps.running_trials import RunningTrials
from sweeps.stopping.asha import ASHA
from sweeps.stopping.median import Median

KEY, OTHER_KEY = "0" * 16, "1" * 16


def lines_of(folder, key):
    """The lines of all files of a trial, without the descriptions that begin each file."""
    files = sorted(folder.glob(f"{key}*.jsonl"), key=lambda file: file.name)
    contents = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert all(content[0]["key"] == key for content in contents)
    return [line for content in contents for line in content[1:]]


def test_lines_are_in_the_store_after_each_flush_and_files_vanish_with_their_trial(anywhere):
    folder = to_location(anywhere) / "run" / "running"
    files = RunningFiles(folder)
    for key in (KEY, OTHER_KEY):
        files.begin(key, {"key": key})
    files.flush()
    assert [lines_of(folder, key) for key in (KEY, OTHER_KEY)] == [[], []]
    for step in (1, 2, 3):
        files.add(KEY, {"step": step})
        files.flush()
        assert lines_of(folder, KEY) == [{"step": earlier} for earlier in range(1, step + 1)]
    file_count = len(folder.glob(f"{KEY}*")) if hasattr(folder, "url") else len([*folder.glob(f"{KEY}*")])
    assert file_count == (4 if "://" in anywhere else 1), "a file on a disk, an object for each flush at a URL"
    files.begin(KEY, {"key": KEY})
    files.add(KEY, {"step": 1})
    files.add("2" * 16, {"step": 1})
    files.flush()
    assert lines_of(folder, KEY) == [{"step": 1}], "a trial that begins again begins its files again"
    files.drop(KEY)
    assert [*folder.glob(f"{KEY}*")] == [] and [*folder.glob("2*")] == []
    RunningFiles(folder).clear()
    assert [*folder.glob("*.jsonl")] == []


def test_the_status_is_written_when_it_is_due_and_as_a_sign_of_life(tmp_path):
    now = [0.0]
    files = RunningFiles(tmp_path, clock=lambda: now[0])

    def beat():
        files.flush()
        return json.loads((tmp_path / "status.json").read_text())["beat"]

    files.set_status({"steps_per_s": 1.0})
    assert beat() == 1
    files.set_status({"steps_per_s": 2.0})
    assert beat() == 1, "too early"
    now[0] = 3.0
    assert beat() == 2
    now[0] = 20.0
    assert beat() == 2, "nothing is new"
    now[0] = 30.0
    assert beat() == 3, "nothing is new, but the command lives"


def test_an_interrupted_trial_leaves_its_evaluations_and_a_finished_sweep_none(anywhere, cut_off):
    command = ["--space", "smoke", "--local-mode", "--out", anywhere, "--set", "trials=2"]
    cut_off(*command)
    store = Store(anywhere, "smoke-paper")
    folder = store.folder / "running"
    (key,) = {file.name[:16] for file in folder.glob("*.jsonl")}
    assert store.read(key) is None
    lines = lines_of(folder, key)
    assert [line["event"] for line in lines if "event" in line] == ["placed"]
    evaluations = [line["evaluation"] for line in lines if "evaluation" in line]
    assert main(command) == 0
    assert [*folder.glob("*.jsonl")] == []
    recorded = {evaluation.step: evaluation.selection_accuracy for evaluation in store.read(key).evaluations}
    assert evaluations and all(recorded[evaluation["step"]] == evaluation["score"] for evaluation in evaluations)
    status = json.loads((folder / "status.json").read_bytes())
    assert status["progress"]["done_count"] == status["progress"]["total_count"] == len(store.records())
    assert status["budget"]["max_wall_time_s"] is None


def test_a_trial_that_goes_on_from_a_checkpoint_shows_its_earlier_evaluations_again(tmp_path, cut_off, monkeypatch):
    command = ["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--set", "trials=2"]
    cut_off(*command)
    dropped_lines = []
    drop = RunningFiles.drop

    def drop_and_remember(self, key):
        self.flush()
        dropped_lines.append((key, lines_of(self._folder, key)))
        drop(self, key)

    (key,) = {file.name[:16] for file in (tmp_path / "smoke-paper" / "running").glob("*.jsonl")}
    monkeypatch.setattr(RunningFiles, "drop", drop_and_remember)
    assert main(command) == 0
    last_lines = dict(dropped_lines)[key]
    steps = [line["evaluation"]["step"] for line in last_lines if "evaluation" in line]
    recorded_steps = [evaluation.step for evaluation in Store(tmp_path, "smoke-paper").read(key).evaluations]
    # The last evaluation comes with the end of the trial, whose record has all of them.
    assert len(steps) >= 2 and steps == recorded_steps[: len(steps)]


def test_a_folder_of_running_trials_that_cannot_be_written_is_named_once_and_the_sweep_goes_on(
    tmp_path, monkeypatch, capsys
):
    def refuse(self, key, lines):
        raise OSError("disk quota exceeded")

    monkeypatch.setattr(RunningFiles, "_write_lines", refuse)
    assert main(["--space", "smoke", "--local-mode", "--out", str(tmp_path), "--set", "trials=2"]) == 0
    assert capsys.readouterr().out.count("the page of running trials failed; the sweep continues without it") == 1


def test_calls_in_the_background_keep_their_order_and_a_slow_one_does_not_hold_up_who_posts_it(capsys):
    released, calls = threading.Event(), []
    background = BackgroundCalls("slow listener", after_calls=lambda: calls.append("after"))
    background.post(released.wait)
    for number in range(100):
        background.post(lambda number=number: calls.append(number))
    assert calls == []
    released.set()
    background.close()
    assert [call for call in calls if call != "after"] == list(range(100))
    assert calls[-1] == "after"


def test_a_listener_that_hangs_is_left_when_the_sweep_ends(capsys):
    background = BackgroundCalls("hanging listener", close_timeout_s=0.01)
    released = threading.Event()
    background.post(released.wait)
    background.close()
    assert "hanging listener failed; the sweep continues without it: TimeoutError" in capsys.readouterr().err
    released.set()


def test_listeners_with_threads_can_be_pickled_and_their_copies_do_nothing(tmp_path):
    """Ray Tune pickles the supervisor, which has them."""
    listeners = [
        *trackers.start(["events"], Store(tmp_path, "run"), spaces.load("smoke", "paper")),
        RunningTrials(
            Store(tmp_path, "run"), SimpleNamespace(to_dict=lambda: {"step_count": 0}), Budget(Options(), float)
        ),
    ]
    for listener in listeners:
        assert type(pickle.loads(cloudpickle.dumps(listener))) is Listener
        listener.close()


def test_an_error_in_the_background_is_named_without_secrets(capsys):
    background = BackgroundCalls("listener")

    def fail():
        raise OSError("https://user:password@host/path?signature=abc refused the connection")

    background.post(fail)
    background.close()
    err = capsys.readouterr().err
    assert "OSError: https://host/path refused the connection" in err and "password" not in err and "abc" not in err


@pytest.mark.parametrize(("rule_class", "words"), [(ASHA, ["rung 4", "0.1000 is below 0."]), (Median, ["0.1000", "4"])])
def test_a_stopping_rule_says_why_it_stops_a_trial(rule_class, words):
    rule = rule_class(grace_steps=4, reduction_factor=3, max_steps=100)
    for key, score in (("a", 0.9), ("b", 0.8), ("c", 0.7)):
        rule.report(key, 4, score)
    assert rule.report("d", 4, 0.1)
    assert all(word in rule.reason("d") for word in words), rule.reason("d")
    assert rule.reason("a") == "" == rule.reason("unknown")
