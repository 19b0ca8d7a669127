"""The page of a run that goes on: what it says at each stage, and that it only reads."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import time

import pytest

from analysis import report
from analysis.watching import live_run as live_run_module
from analysis.watching.live_run import LiveRun, Throttle
from analysis.watching.server import PageServer
from lopt.locations import to_location
from lopt.records import utc_now
from sweeps.results.running_files import RunningFiles
from sweeps.results.store import Store
from sweeps.run import main
from tests.sweeps.records import make_record

KEY = "0" * 16


@pytest.fixture(autouse=True)
def read_at_once(monkeypatch):
    """No pause between two readings."""
    monkeypatch.setattr(Throttle, "is_due", lambda self: True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished smoke sweep."""
    out = tmp_path_factory.mktemp("finished")
    assert main(["--space", "smoke", "--local-mode", "--out", str(out), "--set", "trials=2"]) == 0
    return out / "smoke-paper"


def description(key=KEY, **config):
    values = {"method": "lopt1", "length": 4, "rank": 2, "learning_rate": 0.3, "seed": 0, "max_steps": 12}
    return {
        "key": key, "phase": "search", "cell": "lopt1 n=4 r=2", "stratum": "lopt1 n=4 r=2", "started_at": utc_now(),
        "config": {**values, **config},
    }  # fmt: skip


def evaluation(step, score):
    return {"evaluation": {"step": step, "score": score}, "device": "node:0"}


def answers_in(run, seconds=30.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answers := run.state()["answers"]:
            return answers
        time.sleep(0.05)
    raise AssertionError("no answers")


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    run = LiveRun(tmp_path / "run")
    state = run.state()
    assert (state["run"]["exists"], state["rows"], state["run"]["problem"]) == (False, [], "")


def test_a_running_trial_grows_and_only_what_is_new_is_sent(anywhere):
    folder = to_location(anywhere) / "run"
    files, run = RunningFiles(folder / "running"), LiveRun(folder)
    files.begin(KEY, description())
    files.flush()
    first = run.state()
    (row,) = first["rows"]
    assert (row["status"], row["step"], row["points"], row["learning_rate"]) == ("waiting", 0, [], 0.3)
    assert run.state(first["version"])["rows"] == []
    files.add(KEY, {"event": "placed"})
    files.add(KEY, evaluation(2, 0.5))
    files.flush()
    second = run.state(first["version"])
    (row,) = second["rows"]
    assert (row["status"], row["step"], row["points"], row["device"]) == ("running", 2, [(2, 0.5)], "node:0")
    files.add(KEY, evaluation(4, 0.7))
    files.flush()
    (row,) = run.state(second["version"])["rows"]
    assert (row["first_point"], row["points"], row["score"]) == (1, [(4, 0.7)], 0.7)
    (row,) = run.state()["rows"]
    assert (row["first_point"], row["points"]) == (0, [(2, 0.5), (4, 0.7)]), "a page that is opened later"
    version = run.state()["version"]
    files.add(KEY, evaluation(2, 0.6))
    files.flush()
    (row,) = run.state(version)["rows"]
    assert (row["first_point"], row["points"]) == (0, [(2, 0.6)]), "the trial has started over"
    files.begin(KEY, description())
    files.add(KEY, evaluation(2, 0.65))
    files.flush()
    (row,) = run.state(version)["rows"]
    assert (row["first_point"], row["points"]) == (0, [(2, 0.65)]), "a file that was begun anew"
    files.drop(KEY)
    assert run.state(version)["gone"] == [KEY]


def test_a_line_that_is_half_written_waits_for_its_other_half(tmp_path):
    files, run = RunningFiles(tmp_path / "running"), LiveRun(tmp_path)
    files.begin(KEY, description())
    files.flush()
    line = json.dumps(evaluation(2, 0.5)) + "\n"
    for part in (line[:10], line[10:]):
        with (tmp_path / "running" / f"{KEY}.jsonl").open("a") as stream:
            stream.write(part)
        points = run.state()["rows"][0]["points"]
    assert points == [(2, 0.5)]


def test_a_record_takes_the_place_of_the_running_trial_with_its_end_and_its_reason(anywhere, tiny):
    store = Store(anywhere, "run")
    config = tiny.replace(max_steps=12, eval_every=4)
    files, run = RunningFiles(store.folder / "running"), LiveRun(store.folder)
    files.begin(config.key, description(config.key))
    files.flush()
    version = run.state()["version"]
    record = make_record(config, "stopped", 0.5, "search", "cell", "stratum")
    store.write(record)
    files.drop(config.key)
    files.set_status({"stops": [{"key": config.key, "reason": "rung 4: 0.5 is below 0.6"}]})
    files.flush()
    state = run.state(version)
    (row,) = state["rows"]
    assert (row["status"], row["reason"], row["step"]) == ("stopped", "rung 4: 0.5 is below 0.6", record.steps)
    assert state["gone"] == []
    again = run.state(version)["rows"]
    assert [row["key"] for row in again] == [config.key]


def test_a_failed_trial_shows_its_error_and_its_lines_until_it_is_tried_again(anywhere, tiny):
    store = Store(anywhere, "run")
    record = make_record(tiny, "failed", None, "search", "cell", "stratum")
    error = {"type": "ValueError", "message": "no such luck", "traceback": 'File "x.py", line 7, in f\nValueError'}
    object.__setattr__(record, "error", error)
    store.write(record)
    run = LiveRun(store.folder)
    (row,) = run.state()["rows"]
    assert row["error"] == "ValueError: no such luck" and 'File "x.py", line 7' in row["traceback"]
    store.set_aside(record)
    state = run.state()
    assert (state["rows"], state["gone"]) == ([], [record.key])
    store.write(make_record(tiny, "complete", 0.9, "search", "cell", "stratum"))
    (row,) = run.state()["rows"]
    assert (row["status"], row.get("error")) == ("complete", None)


def test_a_record_that_is_damaged_is_named_and_the_others_are_shown(tmp_path, tiny):
    store = Store(tmp_path, "run")
    store.write(make_record(tiny, "complete", 0.9, "search", "cell", "stratum"))
    (store.folder / "trials" / f"{KEY}.json").write_text("{")
    state = LiveRun(store.folder).state()
    assert len(state["rows"]) == 1 and state["unreadable"][0].startswith(f"{KEY}.json: not valid JSON")


def test_signs_of_life_are_judged_by_the_watching_clock(tmp_path, monkeypatch, finished):
    folder = tmp_path / "smoke-paper"
    shutil.copytree(finished, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    status_file = folder / "running" / "status.json"
    status = json.loads(status_file.read_text())
    status_file.write_text(json.dumps({**status, "written_at": "2020-01-01T00:00:00+00:00"}))
    run = LiveRun(folder, lambda location: "")
    assert not run.state()["run"]["is_alive"], "written long ago"
    status_file.write_text(json.dumps({**status, "written_at": "2020-01-01T00:00:02+00:00"}))
    assert run.state()["run"]["is_alive"], "its clock is wrong, but it writes"
    monkeypatch.setattr(live_run_module, "SILENCE_S", 0.0)
    assert not run.state()["run"]["is_alive"]


def test_a_finished_run_has_its_answer_and_the_frontier_of_the_report(finished):
    run = LiveRun(finished)
    answers = answers_in(run)
    state = run.state()
    assert (state["run"]["status"], state["run"]["problem"]) == ("complete", "")
    assert len(state["rows"]) == len([*(finished / "trials").glob("*.json")])
    assert "<svg" in answers and "frontier" in answers.lower() and 'class="answer"' in answers


def test_a_reading_is_followed_by_a_pause_of_twenty_times_its_cost(monkeypatch):
    monkeypatch.undo()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    throttle = Throttle(1.0)
    assert throttle.is_due()
    throttle.note_cost(0.5)
    now[0] = 109.9
    assert not throttle.is_due()
    now[0] = 110.0
    assert throttle.is_due()


@pytest.fixture
def server(finished):
    with PageServer(LiveRun(finished), 0) as page_server:
        thread = threading.Thread(target=page_server.serve_forever, daemon=True)
        thread.start()
        yield page_server
        page_server.shutdown()


def get(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def test_the_server_answers_this_machine_only_and_lets_no_other_code_run(server):
    status, page, headers = get(server, "/")
    assert status == 200 and b"<script nonce=" in page and b"http" not in page.replace(b"http-equiv", b"")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/state", host="evil.example:80")[0] == 403
    assert get(server, "/../../etc/passwd")[0] == 404
    state = json.loads(get(server, "/state?since=nonsense&session=x")[1])
    assert state["rows"]
    query = f"/state?since={state['version'] + 10}&session={state['session']}"
    assert json.loads(get(server, query)[1])["rows"] == []
    assert json.loads(get(server, query.replace(state["session"], "another"))[1])["rows"], "another session"


def test_nothing_in_the_run_is_changed(finished):
    def content():
        return {path: path.stat().st_mtime_ns for path in finished.rglob("*")}

    before = content()
    answers_in(LiveRun(finished))
    assert content() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "b", "--watch"], ["one run", "2"]),
        (["a", "--watch", "--port", "70000"], ["not a port"]),
        (["a", "--watch", "--out", "x"], ["--watch writes no report"]),
        (["--watch", "--results", "nowhere"], ["there are no runs under nowhere"]),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(arguments, words, capsys):
    assert report.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err


def test_a_port_that_is_in_use_is_said(server, capsys):
    assert report.main(["x", "--watch", "--port", str(server.server_port)]) == 2
    assert f"--port {server.server_port} cannot be used" in capsys.readouterr().err
