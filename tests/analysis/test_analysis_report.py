"""The command: what it writes, says and refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import render
from analysis.cells import groups
from analysis.headline import headline
from analysis.load import load
from analysis.report import main

ROOT = Path(__file__).resolve().parents[2]


def report(path, out, capsys, *more):
    code = main([str(path), "--out", str(out), *more])
    return code, (out / "report.html").read_text(), (out / "report.md").read_text(), capsys.readouterr().out


def test_full_run(full_run, tmp_path, capsys):
    code, html, markdown, said = report(full_run, tmp_path, capsys)
    assert code == 0
    for name in ("budget", "cells", "table3"):
        assert all((tmp_path / "tables" / f"{name}.{suffix}").stat().st_size for suffix in ("csv", "md", "tex"))
    figures = ("pareto", "rank", "learning_rate", "curves", "audit", "efficiency", "importances")
    for name in figures:
        files = (tmp_path / "figures" / f"{name}.{suffix}" for suffix in ("svg", "pdf", "png", "csv"))
        assert all(file.stat().st_size for file in files)
        assert f'href="figures/{name}.csv"' in html
        assert f"](figures/{name}.svg)" in markdown
    assert html.count("<svg") == len(figures)
    assert not re.search(r'(src|href)="(https?:)?//|@import|url\(http', html.replace("http://www.w3.org", "")), (
        "no network"
    )
    for text in (html, markdown):
        assert "Exploratory: 1 seed" in text and "84 %" in text and "intervals overlap" in text
    assert "prefers-color-scheme: dark" in html and "viewport" in html and "@media print" in html
    assert "reaches" in said and "best cell" in said and str(tmp_path / "report.html") in said


def test_runs_as_a_script_without_torch_or_ray(full_run, tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['report.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('analysis/report.py', run_name='__main__')\n"
        "except SystemExit as done: assert not done.code, done.code\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(full_run), "--out", str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("compare", [False, True])
def test_a_reader_that_has_seen_enough_costs_nothing(full_run, tmp_path, compare):
    other = tmp_path / "other"
    shutil.copytree(full_run, other, ignore=shutil.ignore_patterns("report"))
    runs = ["--compare", str(full_run), str(other)] if compare else [str(full_run)]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "analysis/report.py", *runs, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
    assert (tmp_path / "out" / ("compare.html" if compare else "report.html")).exists()


def test_help_imports_nothing_slow():
    code = (
        "import sys; from analysis.report import main; assert main(['--help']) == 0\n"
        "slow = {'torch', 'ray', 'transformers', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_file_hides_a_module():
    names = {path.stem for path in (ROOT / "analysis").glob("*.py")}
    assert not names & {*sys.stdlib_module_names, "jinja2", "markupsafe", "matplotlib", "numpy", "pandas", "scipy"}


def test_default_is_the_newest_run_and_its_own_folder(store, capsys):
    store(name="old").write(updated_at="2001-01-01T00:00:00+00:00")
    new = store(name="new").write(updated_at="2002-01-01T00:00:00+00:00")
    assert main(["--results", str(new.parent)]) == 0
    assert (new / "report" / "report.html").is_file()


def test_unfinished_run_says_so_and_shows_what_there_is(store, tmp_path, capsys):
    s = store()
    s.search("lopt1", 10, 5, selection_accuracy=0.77)
    for rank in (1, 2):
        s.confirm("lopt1", 10, rank, 0.8)
    code, html, markdown, said = report(s.write(status="running"), tmp_path, capsys)
    assert code == 0
    for text in (html, markdown, said):
        assert "The run is not finished: 2 of 10 cells have a confirmed trial." in text
    assert "Not shown, since data are missing" in html and "no full prompt is confirmed" in html


def test_empty_run(store, tmp_path, capsys):
    code, html, _, _ = report(store().write(status="running", baselines=False), tmp_path, capsys)
    assert code == 0 and "no trial is confirmed yet" in html and html.count("not run") >= 10


def test_run_without_cells(store, tmp_path, capsys):
    code, html, markdown, _ = report(store(cells=[]).write(), tmp_path, capsys)
    assert code == 0 and "planned no cells" in html and "planned no cells" in markdown


def test_unreadable_failed_frozen_and_dirty_are_reported(store, tmp_path, capsys):
    s = store()
    s.confirm("lopt1", 10, 1, 0.8, provenance={"commit": "1" * 40, "dirty": True})
    s.search("lopt1", 10, 2, evaluations=[{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}])
    for _ in range(3):
        s.search("lopt1", 10, 5, status="failed", error={"type": "MemoryError", "message": "too big", "traceback": ""})
    (s.path / "trials" / "cut.json").write_text('{"schema')
    _, html, markdown, _ = report(s.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert "1 record could not be read" in text and "cut.json" in text
        assert "MemoryError" in text and "too big" in text
        assert "Frozen runs" in text and "Unclean working tree" in text


def test_of_several_groups_a_frozen_run_says_which_it_is_of(store, tmp_path, capsys):
    one = [{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}]
    s = store()
    s.search("lopt1", 10, 2, evaluations=one, config__learning_rate=0.0123456)
    s.search("lopt1", 10, 2, config__task="other")
    _, html, markdown, _ = report(s.write(), tmp_path, capsys)
    for text in (html, markdown.replace("\\_", "_")):
        assert (
            "LoPT-1 n=10 r=2 on movie_snippets with SmolLM2-135M-Instruct, learning rate 0.0123, seed 1 (search" in text
        )


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"train": 0, "selection": 0, "test": 9}, "9 of 600 test examples of confirmed trials (1.5 %)."),
        (
            {"train": 3, "test": 0},
            "0 of 600 test examples of confirmed trials (0.0 %), and some to train or to select on.",
        ),
        ({"train": 0, "test": 0}, None),
    ],
)
def test_cut_texts_are_a_share_of_those_scored(store, tmp_path, capsys, cut, said):
    s = store()
    s.confirm("lopt1", 10, 1, 0.8, truncated=cut)
    s.search("lopt1", 10, 1, truncated={"test": 7})
    _, html, _, _ = report(s.write(), tmp_path, capsys)
    assert (f"longer than the input were cut: {said}" in html) if said else ("were cut" not in html)


@pytest.mark.parametrize("status", ["complete", "stopped"])
def test_a_run_without_its_trials_says_what_is_missing(store, tmp_path, capsys, status):
    path = store().write(status)
    (path / "trials.parquet").write_bytes(b"")
    _, html, _, said = report(path, tmp_path / "out", capsys)
    for text in (html, said):
        assert (
            "Missing: synthetic-run/trials, where" in text and "trials.parquet is made from them and not read" in text
        )
    store(name="begun").write("running")
    assert "Missing:" not in report(path.parent / "begun", tmp_path / "out", capsys)[1]


def test_times_are_to_the_second_and_durations_are_no_times_of_day(store, tmp_path, capsys):
    path = store().write(started_at="2001-01-01T00:00:00.123+00:00", updated_at="soon", elapsed_s=3725.9)
    _, _, markdown, _ = report(path, tmp_path, capsys)
    assert "- started: 2001-01-01 00:00:00+00:00" in markdown and "- updated: soon" in markdown
    assert "- time: 1 h 2 min" in markdown
    assert [render.duration(s) for s in (0.4, 59.9, 60, 1631)] == ["0 s", "59 s", "1 min 0 s", "27 min 11 s"]


@pytest.mark.parametrize(
    ("changes", "cells", "shown"),
    [
        ({}, [("lopt1", 10, 1)], False),
        ({}, None, True),  # Table 3
        (
            {"backbone": "gpt2-large", "task": "sst2", "test_split": "validation", "test_n": 872},
            [("lopt1", 9, 1)],
            True,
        ),
    ],
)
def test_what_to_know_of_published_numbers_is_said_where_any_are_shown(store, tmp_path, capsys, changes, cells, shown):
    s = store(**changes, **({"cells": cells} if cells else {}))
    s.confirm("lopt1", 10, 1, 0.8)
    _, html, markdown, _ = report(s.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert ("The published numbers" in text) == shown


def test_hostile_text_is_escaped(store, tmp_path, capsys):
    bad = '<script>alert("x")</script> \\input{x} & % _'
    s = store(name="bad", backbone=bad, task=bad)
    s.confirm("lopt1", 10, 1, 0.8)
    s.confirm("lopt1", 10, 2, 0.8, protocol=bad)
    s.search("lopt1", 10, 5, status="failed", cell=bad, error={"type": bad, "message": bad, "traceback": bad})
    _, html, markdown, _ = report(s.write(run=bad, command=[bad]), tmp_path, capsys)
    assert html.count("<script") == 1 and "<script>alert" not in html
    assert "<script" not in re.sub(r"`[^`]*`|^ {4}.*$", "", markdown, flags=re.MULTILINE)  # code shows it as it is
    for file in (tmp_path / "tables").glob("*.tex"):
        assert r"\input" not in file.read_text()


def test_several_groups_have_their_own_files_and_stale_ones_go(store, tmp_path, capsys):
    a, b = store(name="a"), store(name="b", backbone="gpt2-large", task="sst2", width=1280)
    out = tmp_path / "out"
    for s in (a, b):
        s.confirm("lopt1", 10, 1, 0.8)
    assert main([str(a.write()), str(b.write()), "--out", str(out)]) == 0
    assert (out / "tables" / "table3--gpt2-large--sst2.md").is_file()
    assert main([str(a.path), "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "tables").glob("*.md")) == [
        "budget.md",
        "cells.md",
        "cost.md",
        "table3.md",
    ]


def test_folders_show_only_their_last_part(store, tmp_path, capsys):
    s = store(backbone="/models/gpt2-large", task="/data/me/tickets", cells=[("lora", None, 8), ("lopt1", 20, 5)])
    s.confirm("lora", None, 8, 0.9, cell="/data/me/tickets lora r=8", test_split_size=6000)
    s.confirm("lopt1", 20, 5, 0.8, cell="/data/me/tickets lopt1")
    s.search("lopt1", 20, 5, cell="/data/me/tickets lopt1", status="failed", error={"type": "E", "message": "no"})
    s.search(
        "lopt1", 20, 5, cell="/data/me/tickets lopt1",
        evaluations=[{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}],
    )  # fmt: skip
    _, html, markdown, said = report(s.write(), tmp_path, capsys)
    for text in (html, markdown, said):
        assert "/data/me" not in text and "/models" not in text
        assert "tickets with gpt2-large" in text
    assert "<li>LoPT-1 n=20 r=5, learning rate" in html and "in LoPT-1 n=20 r=5<" in html


def test_tables_over_tasks_stand_once_before_the_sections(store, tmp_path, capsys):
    cells = [("lora", None, 8), ("lopt1", 20, 5)]
    paths = [str(store(name=task, task=task, backbone="t5-base", cells=cells).write()) for task in ("rte", "cb")]
    out = tmp_path / "out"
    assert main([*paths, "--out", str(out)]) == 0
    html, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert [path.name for path in sorted((out / "tables").glob("table2*.md"))] == ["table2.md"]
    for text, heading in ((html, "{}</h2>"), (markdown, "## {}\n")):
        assert text.count("Six methods on five tasks") == 1
        places = (heading.format("All tasks with t5-base"), "Six methods", heading.format("rte with t5-base"))
        assert sorted(places, key=text.index) == list(places)
    other = store(name="other", task="cb", backbone="embedded", cells=cells).write()
    assert main([*paths, str(other), "--out", str(out)]) == 0
    names = {path.name for path in (out / "tables").glob("table2*.md")}
    assert names == {"table2--t5-base.md", "table2--embedded--cb.md"}


def test_a_heading_is_not_said_again_as_a_caption(full_run, tmp_path, capsys):
    _, html, markdown, _ = report(full_run, tmp_path, capsys)
    said = "All cells: movie_snippets with SmolLM2-135M-Instruct"
    assert f"<h3>{said}</h3>" in html and html.count(f">{said}<") == 1
    assert markdown.count("All cells") == 1
    assert "<h3>Length and rank (Table 3)</h3>" in html and ">Table 3 of the paper" in html, (
        "these say different things"
    )
    assert "**All cells" in (tmp_path / "tables" / "cells.md").read_text(), "by itself it has its caption"


def test_groups_that_are_called_alike_do_not_share_files(store, tmp_path, capsys):
    paths = [
        str(store(name=f"run{i}", task=task, cells=[("lora", None, 8)]).write())
        for i, task in enumerate(("/data/Билеты", "/data/Счета", "/a/tickets", "/b/tickets"))
    ]
    assert main([*paths, "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / "tables").glob("cells*.md")) == [
        "cells--embedded--a-tickets.md",
        "cells--embedded--b-tickets.md",
        "cells--embedded--other-2.md",
        "cells--embedded--other.md",
    ]


def test_few_shot_is_said(store, tmp_path, capsys):
    s = store(task="rte", backbone="t5-base", cells=[])
    for method, length, rank in (("lora", None, 8), ("lopt1", 20, 5)):
        s.confirm(method, length, rank, 0.8, config__shots=16)
    _, html, markdown, said = report(s.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert "few-shot runs (shots = 16)" in text and "not compared with the published numbers" in text
    assert "On rte with t5-base (16-shot)" in said


def test_headline_claims_no_more_than_the_data(store):
    s = store(name="a", test_n=600)
    s.confirm("prompt_tuning", 10, None, 0.90, selection_accuracy=0.90)
    s.confirm("lopt1", 10, 1, 0.55, selection_accuracy=0.895)
    said = headline(groups(load([s.write()]))[0])
    assert "35.0 pp below full prompt tuning" in said.answer and "9.8× fewer" in said.answer
    assert any("do not overlap" in text and "unknown variance between seeds" in text for text in said.details)
    assert any("not been shown to help" in text for text in said.details)


def test_three_seeds_are_not_exploratory(store):
    s = store()
    for seed in range(3):
        s.confirm("prompt_tuning", 10, None, 0.90, config__seed=seed)
        s.confirm("lopt1", 10, 1, 0.90, config__seed=seed)
    said = headline(groups(load([s.write()]))[0])
    assert said.exploratory is None and "level with full prompt tuning" in said.answer


def test_errors_are_one_line_and_exit_2(store, tmp_path, capsys):
    run = store(name="known").write()
    damaged = store(name="damaged").write()
    (damaged / "manifest.json").write_text("{")
    blocked = tmp_path / "file"
    blocked.write_text("")
    results = ["--results", str(run.parent)]
    for arguments, says in (
        (["nonesuch", *results], r"no run 'nonesuch' .*valid: .*known"),
        (["--results", str(tmp_path / "nothing")], r"no runs under .*sweeps/run\.py --space"),
        (["damaged", *results], r"damaged/manifest\.json cannot be read \(not valid JSON"),
        (["known", *results, "--out", str(blocked)], r"cannot write to .*--out"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(rf"report: .*{says}.*\n", captured.err), captured.err


def test_paths_with_blanks_can_be_pasted_into_a_shell(store, tmp_path, capsys):
    path, out = store(name="my run").write(), tmp_path / "a b" / "report of mine"
    assert main([str(path), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"report: '{out / 'report.html'}'"
    assert main(["--compare", str(path), str(store(name="other").write()), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"comparison: '{out / 'compare.html'}'"
    assert main(["--compare", str(path), str(path)]) == 2
    assert f"--compare '{path}' '{path}' names one run twice" in capsys.readouterr().err


def test_commands_are_shown_as_typed(store, tmp_path, capsys):
    path = store().write(command=["python", "sweeps/run.py", "--set", "task=a b"])
    _, html, _, _ = report(path, tmp_path, capsys)
    assert "sweeps/run.py --set &#39;task=a b&#39;" in html
    assert json.loads((path / "manifest.json").read_text())["command"][-1] == "task=a b"


@pytest.mark.parametrize(
    ("status", "elapsed_s", "words"),
    [
        ("complete", 582.0, "predicted 6 min 10 s to 9 min 40 s, took 8 min 2 s; started with 3 of 40 trials"),
        ("stopped", 200.0, "predicted 6 min 10 s to 9 min 40 s, took 1 min 40 s so far; started with 3 of 40 trials"),
        ("stopped", 100.0, "predicted 6 min 10 s to 9 min 40 s, not begun since; started with 3 of 40 trials"),
    ],
)
def test_the_time_that_was_predicted_stands_beside_the_time_it_took(store, status, elapsed_s, words):
    run = store()
    run.confirm("lopt1", 10, 2, 0.8)
    path = run.write(status, elapsed_s=elapsed_s)
    assert main([str(path)]) == 0
    assert "predicted" not in (path / "report" / "report.md").read_text()
    seconds = {"low": 370.0, "median": 480.0, "high": 580.0}
    prediction = {"seconds": seconds, "trials_done": 3, "trials": 40}
    (path / "probe.json").write_text(json.dumps({"prediction": prediction, "elapsed_before_s": 100.0}))
    assert main([str(path)]) == 0
    for page in ("report.md", "report.html"):
        assert words in (path / "report" / page).read_text()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"prediction": {"seconds": 3}}', '{"prediction": 3}'])
def test_a_damaged_prediction_costs_no_report(store, content):
    run = store()
    run.confirm("lopt1", 10, 2, 0.8)
    path = run.write()
    (path / "probe.json").write_text(content)
    assert main([str(path)]) == 0
    assert "predicted" not in (path / "report" / "report.md").read_text()
