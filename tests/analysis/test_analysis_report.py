"""The command: what it writes, prints and refuses."""

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


def report(path, out, capsys):
    """Write a report; return the exit code, both pages and what is printed."""
    code = main([str(path), "--out", str(out)])
    return code, (out / "report.html").read_text(), (out / "report.md").read_text(), capsys.readouterr().out


def test_a_full_run_has_every_table_and_figure(full_run, tmp_path, capsys):
    code, html, markdown, printed = report(full_run, tmp_path, capsys)
    assert code == 0
    for name in ("budget", "cells", "table3"):
        assert all((tmp_path / "tables" / f"{name}.{suffix}").stat().st_size for suffix in ("csv", "md", "tex"))
    figures = ("pareto", "rank", "low_rank", "learning_rate", "curves", "audit", "efficiency", "importances")
    for name in figures:
        files = (tmp_path / "figures" / f"{name}.{suffix}" for suffix in ("svg", "pdf", "png", "csv"))
        assert all(file.stat().st_size for file in files)
        assert f'href="figures/{name}.csv"' in html
        assert f"](figures/{name}.svg)" in markdown
    assert html.count("<svg") == len(figures)
    assert not re.search(r'(src|href)="(https?:)?//|@import|url\(http', html.replace("http://www.w3.org", "")), (
        "the page loads something from the network"
    )
    for text in (html, markdown):
        assert (
            "exploratory: with 1 seed" in text
            and "84 %" in text
            and "which no test compares: Prompt tuning n=10" in text
        )
    assert "prefers-color-scheme: dark" in html and "viewport" in html and "@media print" in html
    assert "reaches" in printed and "best cell" in printed and str(tmp_path / "report.html") in printed


def test_the_script_imports_neither_torch_nor_ray(full_run, tmp_path):
    code = (
        "import runpy, sys; sys.argv = ['report.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('analysis/report.py', run_name='__main__')\n"
        "except SystemExit as error: assert not error.code, error.code\n"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )
    arguments = [sys.executable, "-c", code, str(full_run), "--out", str(tmp_path)]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("compare", [False, True])
def test_a_reader_that_stops_reading_costs_nothing(full_run, tmp_path, compare):
    other = tmp_path / "other"
    shutil.copytree(full_run, other, ignore=shutil.ignore_patterns("report"))
    runs = ["--compare", str(full_run), str(other)] if compare else [str(full_run)]
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "analysis/report.py", *runs, "--out", str(tmp_path / "out")]
    process = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.stderr == ""
    assert process.returncode == 1
    assert (tmp_path / "out" / ("compare.html" if compare else "report.html")).exists()


def test_help_imports_nothing_slow():
    code = (
        "import sys; from analysis.report import main; assert main(['--help']) == 0\n"
        "slow = {'torch', 'ray', 'transformers', 'matplotlib', 'scipy', 'pandas'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


def test_no_file_hides_a_module():
    names = {path.stem for path in (ROOT / "analysis").glob("*.py")}
    assert not names & {*sys.stdlib_module_names, "jinja2", "markupsafe", "matplotlib", "numpy", "pandas", "scipy"}


def test_the_default_is_the_newest_run_and_its_own_folder(store, capsys):
    store(name="old").write(updated_at="2001-01-01T00:00:00+00:00")
    new = store(name="new").write(updated_at="2002-01-01T00:00:00+00:00")
    assert main(["--results", str(new.parent)]) == 0
    assert (new / "report" / "report.html").is_file()


def test_an_unfinished_run_says_so_and_shows_its_results_so_far(store, tmp_path, capsys):
    run = store()
    run.search("lopt1", 10, 5, selection_accuracy=0.77)
    for rank in (1, 2):
        run.confirm("lopt1", 10, rank, 0.8)
    code, html, markdown, printed = report(run.write(status="running"), tmp_path, capsys)
    assert code == 0
    for text in (html, markdown, printed):
        assert "The run is not finished. 2 of 10 cells have a confirmed trial." in text
    assert "Not shown, because data are missing" in html and "is planned but not confirmed" in html


def test_a_run_without_trials_has_a_report(store, tmp_path, capsys):
    code, html, _, _ = report(store().write(status="running", baselines=False), tmp_path, capsys)
    assert code == 0 and "no trial is confirmed yet" in html and html.count("not run") >= 10


def test_a_run_without_cells_has_a_report(store, tmp_path, capsys):
    code, html, markdown, _ = report(store(cells=[]).write(), tmp_path, capsys)
    assert code == 0 and "planned no cells" in html and "planned no cells" in markdown


def test_unreadable_failed_stuck_and_unclean_trials_are_reported(store, tmp_path, capsys):
    run = store()
    run.confirm("lopt1", 10, 1, 0.8, provenance={"commit": "1" * 40, "dirty": True})
    run.search("lopt1", 10, 2, evaluations=[{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}])
    for _ in range(3):
        run.search(
            "lopt1", 10, 5, status="failed", error={"type": "MemoryError", "message": "too big", "traceback": ""}
        )
    (run.path / "trials" / "cut.json").write_text('{"schema')
    _, html, markdown, _ = report(run.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert "1 record could not be read" in text and "cut.json" in text
        assert "MemoryError" in text and "too big" in text
        assert "Stuck trials" in text and "Unclean working tree" in text


def test_a_stuck_trial_is_named_with_its_group_if_there_are_several(store, tmp_path, capsys):
    one_class = [{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}]
    run = store()
    run.search("lopt1", 10, 2, evaluations=one_class, config__learning_rate=0.0123456)
    run.search("lopt1", 10, 2, config__task="other")
    _, html, markdown, _ = report(run.write(), tmp_path, capsys)
    for text in (html, markdown.replace("\\_", "_")):
        assert (
            "LoPT-1 n=10 r=2 on movie_snippets with SmolLM2-135M-Instruct, learning rate 0.0123, seed 1 (search" in text
        )


@pytest.mark.parametrize(
    ("truncated", "note"),
    [
        ({"train": 0, "selection": 0, "test": 9}, "9 of 600 test examples of confirmed trials (1.5 %)."),
        (
            {"train": 3, "test": 0},
            "0 of 600 test examples of confirmed trials (0.0 %), and some examples for training or selection.",
        ),
        ({"train": 0, "test": 0}, None),
    ],
)
def test_cut_texts_are_reported_as_a_share_of_the_scored_texts(store, tmp_path, capsys, truncated, note):
    run = store()
    run.confirm("lopt1", 10, 1, 0.8, truncated=truncated)
    run.search("lopt1", 10, 1, truncated={"test": 7})
    _, html, _, _ = report(run.write(), tmp_path, capsys)
    assert (f"input were cut: {note}" in html) if note else ("were cut" not in html)


@pytest.mark.parametrize("status", ["complete", "stopped"])
def test_a_report_says_if_the_folder_of_trials_is_missing(store, tmp_path, capsys, status):
    path = store().write(status)
    (path / "trials.parquet").write_bytes(b"")
    _, html, _, printed = report(path, tmp_path / "out", capsys)
    for text in (html, printed):
        assert "Missing: synthetic-run/trials. " in text and "trials.parquet is made from them and is not read" in text
    store(name="begun").write("running")
    assert "Missing:" not in report(path.parent / "begun", tmp_path / "out", capsys)[1]


def test_times_have_no_fractions_and_durations_have_units(store, tmp_path, capsys):
    path = store().write(started_at="2001-01-01T00:00:00.123+00:00", updated_at="soon", elapsed_s=3725.9)
    _, _, markdown, _ = report(path, tmp_path, capsys)
    assert "- started: 2001-01-01 00:00:00+00:00" in markdown and "- updated: soon" in markdown
    assert "- time: 1 h 2 min" in markdown
    assert [render.duration(seconds) for seconds in (0.4, 59.9, 60, 1631)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "27 min 11 s",
    ]


@pytest.mark.parametrize(
    ("changes", "cells", "are_shown"),
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
def test_caveats_of_published_numbers_are_listed_if_any_are_shown(store, tmp_path, capsys, changes, cells, are_shown):
    run = store(**changes, **({"cells": cells} if cells else {}))
    run.confirm("lopt1", 10, 1, 0.8)
    _, html, markdown, _ = report(run.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert ("The published numbers" in text) == are_shown


def test_hostile_text_is_escaped(store, tmp_path, capsys):
    hostile = '<script>alert("x")</script> \\input{x} & % _'
    run = store(name="bad", backbone=hostile, task=hostile)
    run.confirm("lopt1", 10, 1, 0.8)
    run.confirm("lopt1", 10, 2, 0.8, protocol=hostile)
    run.search(
        "lopt1", 10, 5, status="failed", cell=hostile, error={"type": hostile, "message": hostile, "traceback": hostile}
    )
    _, html, markdown, _ = report(run.write(run=hostile, command=[hostile]), tmp_path, capsys)
    assert html.count("<script") == 2 and "<script>alert" not in html
    assert "<script" not in re.sub(r"`[^`]*`|^ {4}.*$", "", markdown, flags=re.MULTILINE)  # code shows it as it is
    for file in (tmp_path / "tables").glob("*.tex"):
        assert r"\input" not in file.read_text()


def test_several_groups_have_their_own_files_and_stale_files_are_deleted(store, tmp_path, capsys):
    a, b = store(name="a"), store(name="b", backbone="gpt2-large", task="sst2", width=1280)
    out = tmp_path / "out"
    for run in (a, b):
        run.confirm("lopt1", 10, 1, 0.8)
    assert main([str(a.write()), str(b.write()), "--out", str(out)]) == 0
    assert (out / "tables" / "table3--gpt2-large--sst2.md").is_file()
    assert main([str(a.path), "--out", str(out)]) == 0
    assert sorted(path.name for path in (out / "tables").glob("*.md")) == [
        "budget.md",
        "cells.md",
        "cost.md",
        "table3.md",
    ]


def test_only_the_last_part_of_a_folder_is_shown(store, tmp_path, capsys):
    run = store(backbone="/models/gpt2-large", task="/data/me/tickets", cells=[("lora", None, 8), ("lopt1", 20, 5)])
    run.confirm("lora", None, 8, 0.9, cell="/data/me/tickets lora r=8", test_split_size=6000)
    run.confirm("lopt1", 20, 5, 0.8, cell="/data/me/tickets lopt1")
    run.search("lopt1", 20, 5, cell="/data/me/tickets lopt1", status="failed", error={"type": "E", "message": "no"})
    run.search(
        "lopt1", 20, 5, cell="/data/me/tickets lopt1",
        evaluations=[{"step": 10, "selection_accuracy": 0.5, "top_class_share": 1.0}],
    )  # fmt: skip
    _, html, markdown, printed = report(run.write(), tmp_path, capsys)
    for text in (html, markdown, printed):
        assert "/data/me" not in text and "/models" not in text
        assert "tickets with gpt2-large" in text
    assert "<li>LoPT-1 n=20 r=5, learning rate" in html and "in LoPT-1 n=20 r=5<" in html


def test_tables_over_tasks_come_once_before_the_sections(store, tmp_path, capsys):
    cells = [("lora", None, 8), ("lopt1", 20, 5)]
    paths = [str(store(name=task, task=task, backbone="t5-base", cells=cells).write()) for task in ("rte", "cb")]
    out = tmp_path / "out"
    assert main([*paths, "--out", str(out)]) == 0
    html, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert [path.name for path in sorted((out / "tables").glob("table2*.md"))] == ["table2.md"]
    for text, heading in ((html, "{}</h2>"), (markdown, "## {}\n")):
        assert text.count("Six methods on five tasks") == 1
        headings = (heading.format("All tasks with t5-base"), "Six methods", heading.format("rte with t5-base"))
        assert sorted(headings, key=text.index) == list(headings)
    other = store(name="other", task="cb", backbone="embedded", cells=cells).write()
    assert main([*paths, str(other), "--out", str(out)]) == 0
    names = {path.name for path in (out / "tables").glob("table2*.md")}
    assert names == {"table2--t5-base.md", "table2--embedded--cb.md"}


def test_a_heading_is_not_repeated_as_a_caption(full_run, tmp_path, capsys):
    _, html, markdown, _ = report(full_run, tmp_path, capsys)
    caption = "All cells: movie_snippets with SmolLM2-135M-Instruct"
    assert f"<h3>{caption}</h3>" in html and html.count(f">{caption}<") == 1
    assert markdown.count("All cells") == 1
    assert "<h3>Length and rank (Table 3)</h3>" in html and ">Table 3 of the paper" in html, (
        "heading and caption differ"
    )
    assert "**All cells" in (tmp_path / "tables" / "cells.md").read_text(), "the file has its caption"


def test_groups_with_the_same_name_do_not_share_files(store, tmp_path, capsys):
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


def test_few_shot_runs_are_called_so(store, tmp_path, capsys):
    run = store(task="rte", backbone="t5-base", cells=[])
    for method, length, rank in (("lora", None, 8), ("lopt1", 20, 5)):
        run.confirm(method, length, rank, 0.8, config__shots=16)
    _, html, markdown, printed = report(run.write(), tmp_path, capsys)
    for text in (html, markdown):
        assert "few-shot runs (shots = 16)" in text and "not compared with the published numbers" in text
    assert "On rte with t5-base (16-shot)" in printed


def test_the_headline_claims_no_more_than_the_data_show(store):
    run = store(name="a", test_n=600)
    run.confirm("prompt_tuning", 10, None, 0.90, selection_accuracy=0.90)
    run.confirm("lopt1", 10, 1, 0.55, selection_accuracy=0.895)
    result = headline(groups(load([run.write()]))[0])
    assert "it is not decided whether fewer parameters than those of the reference" in result.answer
    assert "because no test is possible: it needs at least two confirm seeds" in result.answer
    assert "LoPT-1 n=10 r=1 (" not in result.answer, "no smaller cell is recommended"
    assert "with 1 seed, the variance between seeds is unknown" in result.exploratory_warning


def test_three_seeds_are_not_exploratory(store):
    run = store()
    for seed in range(3):
        run.confirm("prompt_tuning", 10, None, 0.90, config__seed=seed)
        run.confirm("lopt1", 10, 1, 0.90, config__seed=seed)
    result = headline(groups(load([run.write()]))[0])
    assert result.exploratory_warning is None and "not decided" in result.answer, "there are no predictions"


def test_errors_are_one_line_and_exit_2(store, tmp_path, capsys):
    run = store(name="known").write()
    damaged = store(name="damaged").write()
    (damaged / "manifest.json").write_text("{")
    blocked = tmp_path / "file"
    blocked.write_text("")
    results = ["--results", str(run.parent)]
    for arguments, message in (
        (["nonesuch", *results], r"no run 'nonesuch' .*valid: .*known"),
        (["--results", str(tmp_path / "nothing")], r"no runs under .*sweeps/run\.py --space"),
        (["damaged", *results], r"damaged/manifest\.json cannot be read \(not valid JSON"),
        (["known", *results, "--out", str(blocked)], r"cannot write to .*--out"),
    ):
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert re.fullmatch(rf"report: .*{message}.*\n", captured.err), captured.err


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
    ("status", "elapsed_s", "time"),
    [
        ("complete", 582.0, "predicted 6 min 10 s to 9 min 40 s, took 8 min 2 s"),
        ("stopped", 200.0, "predicted 6 min 10 s to 9 min 40 s, took 1 min 40 s so far"),
        ("stopped", 100.0, "predicted 6 min 10 s to 9 min 40 s, nothing has run since"),
    ],
)
def test_the_prediction_is_shown_with_the_time_that_the_run_took(store, status, elapsed_s, time):
    run = store()
    run.confirm("lopt1", 10, 2, 0.8)
    path = run.write(status, elapsed_s=elapsed_s)
    assert main([str(path)]) == 0
    assert "predicted" not in (path / "report" / "report.md").read_text()
    seconds = {"low": 370.0, "median": 480.0, "high": 580.0}
    prediction = {"seconds": seconds, "trials_done": 3, "trials": 40}
    (path / "probe.json").write_text(json.dumps({"prediction": prediction, "elapsed_before_s": 100.0}))
    assert main([str(path)]) == 0
    finished = "3 of 40 trials were finished when it was predicted"
    for page in ("report.md", "report.html"):
        assert f"{time}; {finished}" in (path / "report" / page).read_text()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"prediction": {"seconds": 3}}', '{"prediction": 3}'])
def test_a_damaged_prediction_does_not_prevent_the_report(store, content):
    run = store()
    run.confirm("lopt1", 10, 2, 0.8)
    path = run.write()
    (path / "probe.json").write_text(content)
    assert main([str(path)]) == 0
    assert "predicted" not in (path / "report" / "report.md").read_text()
