"""Settings, options and space files of every kind: each gives a plan, or one line of error and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lopt.config import CONFIG_FIELDS
from sweeps import space, spaces
from sweeps.planning.check_space import check_space
from sweeps.run import main
from tests.bad_input import error_line, fixed, junk, refused, run_command, texts

KEYS = [*CONFIG_FIELDS, *space.SPACE_FIELDS, "placement", "alpha", "lora.rank", "dept.alpha", "init", "update_tokens"]
NAMES = sorted(set(KEYS) - {"backbone"})  # unknown names of models are looked up in the hub's cache, which is slow
PIECES = ["0", "1", "2", "-1", "1.5", "1e400", "nan", "inf", "none", "", " ", "True", "lopt1", "suffix", "0x1", "1_0",
          "9" * 400, "١", "toy", "{text} It", "/", "..", "\0", "\ud800", "é" * 300]  # fmt: skip
values = st.lists(st.sampled_from(PIECES) | texts, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([",", ":", " ", "="]).map(lambda separator: separator.join(parts))
)


def dry_run(*argv):
    return run_command(main, *argv, "--dry-run", "--json")


@fixed(150)
@given(key=st.sampled_from(NAMES), value=values, name=st.sampled_from(["smoke", "ablation", "search", "table2"]))
@example(key="rank", value="a,b", name="search")
@example(key="length", value="a", name="search")
@example(key="length", value="4,", name="smoke")
@example(key="max_steps", value="9" * 400, name="smoke")
@example(key="trials", value="999999999999", name="smoke")
@example(key="init", value="1:5", name="search")
@example(key="rank", value="1,1", name="search")
@example(key="batch_size", value="", name="smoke")
@example(key="task", value="0\r0", name="table2")
def test_any_setting_is_planned_or_refused(key, value, name):
    code, out, err = dry_run("--space", name, "--set", f"{key}={value}")
    if code:
        line = error_line(code, out, err)
        assert key.rpartition(".")[2] in line or "cells named" in line
        return
    plan = json.loads(out)
    digits = value.strip()
    if digits.isascii() and digits.isdigit() and key in CONFIG_FIELDS:
        planned_values = [plan["base"].get(key), *(cell["config"].get(key) for cell in plan["cells"])]
        assert int(digits) in planned_values
    if digits.isascii() and digits.isdigit() and key in space._COUNT_FIELDS:
        assert plan[{"trials": "trials_per_cell"}.get(key, key)] == int(digits)


@fixed(40)
@given(pair=texts | values)
def test_any_text_after_set_is_planned_or_refused(pair):
    code, out, err = dry_run("--space", "smoke", f"--set={pair}")
    if code:
        error_line(code, out, err)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--space", "smoke", "--set", "length="], ["--set length=", "none"]),
        (["--space", "smoke", "--set", "length=4,"], ["length is '4,'", "cannot contain an empty value"]),
        (["--space", "smoke", "--set", "length=none"], ["length is 'none'"]),
        (["--space", "search", "--set", "rank=1,1"], ["rank: choice of (1, 1)", "each once"]),
        (["--space", "search", "--set", "rank=a,b"], ["rank is 'a'"]),
        (["--space", "search", "--set", "length=a"], ["length is 'a'"]),
        (["--space", "frontier", "--set", "budget=a"], ["budget a", "TypeError"]),
        (["--space", "smoke", "--set", "trials=999999999999"], ["trials is 999999999999", "1,000,000"]),
        (["--space", "ablation", "--set", "length=" + ",".join(map(str, range(1, 9999)))], ["more than 10,000 cells"]),
        (["--space", "smoke", "--name", ""], ["run name ''"]),
        (["--space", "smoke", "--name", "x" * 5000], ["run name 'xxx"]),
        (["--space", "smoke", "--name", "a\nb"], ["run name"]),
        (["--space", "smoke", "--seeds", "9" * 5000], ["--seeds", "is not a whole number"]),
        (["--space", "smoke", "--seeds", "1" * 9], ["confirm_seeds is 111111111", "1,000,000"]),
        (["--space", "smoke", "--seeds", "1.5"], ["--seeds", "'1.5' is not a whole number"]),
        (["--space", "smoke", "--seeds", "٣"], ["--seeds", "is not a whole number"]),
        (["--space", "smoke", "--max-trials", "-1"], ["--max-trials"]),
        (["--space", "smoke", "--max-wall-time", "-1s"], ["--max-wall-time"]),
        (["--space", "smoke", "--max-wall-time", "0"], ["'0' is not a duration"]),
        (["--space", "smoke", "--max-gpu-hours", "nan"], ["'nan' is not a number of hours"]),
        (["--space", "smoke", "--max-gpu-hours", "\0"], ["is not a number of hours"]),
        (["--space", "smoke", "--max-concurrent", ""], ["'' is not a whole number"]),
        (["--space", "smoke", "--profile", ""], ["unknown profile ''", "paper, demo"]),
        (["--space", "smoke", "--profile", "\ud800"], ["unknown profile"]),
        (["--space", ""], ["unknown space ''"]),
        (["--space", "/"], ["unknown space '/'"]),
        (["--space", "x" * 5000 + ".py"], ["does not exist"]),
        (["--space", "\0.py"], ["does not exist"]),
        (["--space", "smoke", "--what"], ["unrecognized arguments: --what"]),
        (["--space"], ["--space", "expected one argument"]),
        ([], ["--space"]),
    ],
)  # fmt: skip
def test_a_wrong_option_is_refused(argv, words):
    refused(main, *argv, "--dry-run", words=words)


@fixed(60)
@given(flag=st.sampled_from(["--space", "--profile", "--name", "--out", "--seeds", "--max-trials", "--max-wall-time",
                             "--max-gpu-hours", "--trials-per-gpu", "--max-concurrent"]), value=texts)  # fmt: skip
def test_any_value_of_an_option_is_planned_or_refused(flag, value):
    code, out, err = dry_run("--space", "smoke", f"{flag}={value}")
    if code:
        error_line(code, out, err)


def test_an_out_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("kept")
    refused(main, "--space", "smoke", "--local-mode", "--out", tmp_path / "file", words=[str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "kept"


# --- space files -----------------------------------------------------------------------------------------------------

PARTS = {
    "name": "'mine'",
    "title": "'Mine'",
    "base": "{'task': 'toy', 'backbone': 'tiny'}",
    "axes": "{}",
    "grid": "lambda axes: (cell,)",
    "trials": "2",
    "confirm_seeds": "1",
    "grace_steps": "100",
    "cell": "'one'",
    "fixed": "{'method': 'lopt1', 'length': 8, 'rank': 3}",
    "search": "{'learning_rate': Real(0.01, 1, log=True)}",
    "first": "({'learning_rate': 0.1},)",
}
FILE = string.Template(
    "from lopt.ranges import Choice, Real, Whole\n"
    "from sweeps.space import Cell, Space, Spec\n"
    "nan, inf = float('nan'), float('inf')\n"
    "def build(profile):\n"
    "    cell = Cell(name=$cell, fixed=$fixed, search=$search, first=$first)\n"
    "    return Space(name=$name, title=$title, profile=profile, base=$base, axes=$axes, grid=$grid, trials=$trials,"
    " confirm_seeds=$confirm_seeds, grace_steps=$grace_steps)\n"
    "SPEC = Spec('mine', build)\n"
)


def write_space(path, **parts):
    path.write_text(FILE.substitute({**PARTS, **parts}), encoding="utf-8")
    return path


def test_the_unchanged_space_file_is_valid(tmp_path):
    code, out, _ = dry_run("--space", write_space(tmp_path / "mine.py"))
    assert (code, json.loads(out)["search_trials"]) == (0, 2)


@fixed(150)
@given(part=st.sampled_from([*PARTS]), value=junk.map(repr).filter(lambda text: len(text) < 4300))
def test_any_part_of_a_space_file_is_planned_or_refused(tmp_path, part, value):
    code, out, err = dry_run("--space", write_space(tmp_path / "mine.py", **{part: value}))
    if code:
        error_line(code, out, err)
    else:
        plan = json.loads(out)
        (cell,) = plan["cells"]
        assert plan["search_trials"] == (plan["trials_per_cell"] if cell["search"] else 1)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"grid": "lambda axes: (5,)"}, ["its grid returns 5", "Cell objects"]),
        ({"grid": "lambda axes: 5"}, ["cannot make its cells from these axes", "TypeError"]),
        ({"grid": "lambda axes: axes['rank']"}, ["cannot make its cells from these axes: none", "KeyError"]),
        ({"grid": "lambda axes: (cell, cell)"}, ["two cells named 'one'"]),
        ({"grid": "lambda axes: __import__('itertools').repeat(cell)"}, ["two cells named 'one'"]),
        ({"search": "{'learning_rate': (0.1, 0.2)}"}, ["range of learning_rate is (0.1, 0.2)", "Real, Whole"]),
        ({"search": "{'learning_rate': Choice(())}", "first": "()"}, ["choice of ()", "one or more values"]),
        ({"search": "{'learning_rate': Choice('ab')}"}, ["choice of 'ab'", "a tuple"]),
        ({"search": "{'learning_rate': Real('a', 1)}"}, ["range 'a' to 1"]),
        ({"search": "{'learning_rate': Real(-inf, 1)}"}, ["range -inf to 1"]),
        ({"search": "{'learning_rate': Real(nan, 1)}"}, ["range nan to 1"]),
        ({"search": "{'max_steps': Whole(1, 5)}", "first": "()"}, ["`max_steps` must be the same for all cells"]),
        ({"fixed": "{'method': 'lopt1', 'length': 8, 'rank': 3, 'max_steps': 5}"}, ["same for all cells"]),
        ({"first": "({'batch_size': 4},)"}, ["`first` gives `batch_size` the value 4", "`batch_size` is not searched"]),
        ({"first": "({'learning_rate': 5},)"}, ["`first` gives `learning_rate` the value 5", "outside"]),
        ({"first": "{'learning_rate': 0.1}"}, ["`first` is {'learning_rate': 0.1}", "tuple of mappings"]),
        ({"base": "{'task': 'toy', 'backbone': 'tiny', 'options': 5}"}, ["options is 5"]),
        ({"title": "'a\\nb'"}, ["title of a space is 'a\\nb'", "one line"]),
        ({"trials": "True"}, ["trials is True"]),
    ],
    ids=lambda value: ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_bad_part_of_a_space_file_is_named(tmp_path, parts, words):
    refused(main, "--space", write_space(tmp_path / "mine.py", **parts), "--dry-run", words=words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["AttributeError", "SPEC"]),
        (b"def", ["SyntaxError"]),
        (b"\x80\x00\xff", ["does not define a space"]),
        (b"\0\0", ["does not define a space"]),
        (b"SPEC = 5", ["AttributeError"]),
        (b"SPEC = type('S', (), {'build': staticmethod(lambda profile: None)})", ["its SPEC builds None"]),
        (b"SPEC = type('S', (), {'build': staticmethod(lambda: None)})", ["TypeError"]),
        (b"raise ValueError('two\\nlines')", ["mine.py", "ValueError: two lines"]),
        (b"raise RuntimeError", ["RuntimeError"]),
        (b"raise SystemExit(0)", ["SystemExit: 0"]),
        (b"import sys; sys.exit('bye')", ["SystemExit: bye"]),
        (b"import no_such_module", ["ModuleNotFoundError", "no_such_module"]),
        (b"def f(): f()\nf()", ["RecursionError"]),
        (b"x = " + b"[" * 500, ["does not define a space"]),
    ],
)
def test_a_file_that_does_not_define_a_space_is_refused(tmp_path, content, words):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    refused(main, "--space", path, "--dry-run", words=["mine.py", *words])


def test_a_folder_named_like_a_space_file_is_refused(tmp_path):
    (tmp_path / "mine.py").mkdir()
    refused(main, "--space", tmp_path / "mine.py", "--dry-run", words=["does not exist", "smoke"])


def test_two_cells_with_the_same_trials_are_refused():
    """A record names one cell, so the other cell would never be complete."""
    smoke = spaces.load("smoke", "paper")
    twins = lambda axes: (*smoke.grid(axes), dataclasses.replace(smoke.grid(axes)[1], name="another name"))  # noqa: E731
    with pytest.raises(ValueError, match=r"lopt1 n=4 r=2 and another name have the same trials"):
        check_space(dataclasses.replace(smoke, grid=twins))
