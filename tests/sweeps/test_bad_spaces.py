"""Settings, flags and space files of every kind: a plan of what was asked for, or one line and exit 2."""

from __future__ import annotations

import dataclasses
import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lopt.config import FIELDS
from sweeps import space, spaces
from sweeps.planning.check_space import check_space
from sweeps.run import main
from tests.bad_input import called, fixed, junk, line_of, refused, texts

KEYS = [*FIELDS, *space.SPACE_FIELDS, "placement", "alpha", "lora.rank", "dept.alpha", "init", "update_tokens"]
NAMES = sorted(set(KEYS) - {"backbone"})  # names of models that are unknown are looked for in the hub's cache: slow
PIECES = ["0", "1", "2", "-1", "1.5", "1e400", "nan", "inf", "none", "", " ", "True", "lopt1", "suffix", "0x1", "1_0",
          "9" * 400, "١", "toy", "{text} It", "/", "..", "\0", "\ud800", "é" * 300]  # fmt: skip
values = st.lists(st.sampled_from(PIECES) | texts, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from([",", ":", " ", "="]).map(lambda between: between.join(parts))
)


def planned(*argv):
    return called(main, *argv, "--dry-run", "--json")


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
def test_any_setting(key, value, name):
    code, out, err = planned("--space", name, "--set", f"{key}={value}")
    if code:
        line = line_of(code, out, err)
        assert key.rpartition(".")[2] in line or "cells named" in line
        return
    described = json.loads(out)
    plain = value.strip()
    if plain.isascii() and plain.isdigit() and key in FIELDS:
        kept = [described["base"].get(key), *(cell["config"].get(key) for cell in described["cells"])]
        assert int(plain) in kept
    if plain.isascii() and plain.isdigit() and key in space.SPACE_FIELDS[:4]:
        assert described[{"trials": "trials_per_cell"}.get(key, key)] == int(plain)


@fixed(40)
@given(pair=texts | values)
def test_any_pair(pair):
    code, out, err = planned("--space", "smoke", f"--set={pair}")
    if code:
        line_of(code, out, err)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--space", "smoke", "--set", "length="], ["--set length=", "none"]),
        (["--space", "smoke", "--set", "length=4,"], ["length is '4,'", "no empty value"]),
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
        (["--space", "smoke", "--seeds", "9" * 5000], ["--seeds", "no whole number"]),
        (["--space", "smoke", "--seeds", "1" * 9], ["confirm_seeds is 111111111", "1,000,000"]),
        (["--space", "smoke", "--seeds", "1.5"], ["--seeds", "'1.5' is no whole number"]),
        (["--space", "smoke", "--seeds", "٣"], ["--seeds", "no whole number"]),
        (["--space", "smoke", "--max-trials", "-1"], ["--max-trials"]),
        (["--space", "smoke", "--max-wall-time", "-1s"], ["--max-wall-time"]),
        (["--space", "smoke", "--max-wall-time", "0"], ["'0' is no time"]),
        (["--space", "smoke", "--max-gpu-hours", "nan"], ["'nan' is no number of hours"]),
        (["--space", "smoke", "--max-gpu-hours", "\0"], ["is no number of hours"]),
        (["--space", "smoke", "--max-concurrent", ""], ["'' is no whole number"]),
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
def test_flags(argv, words):
    refused(main, *argv, "--dry-run", words=words)


@fixed(60)
@given(flag=st.sampled_from(["--space", "--profile", "--name", "--out", "--seeds", "--max-trials", "--max-wall-time",
                             "--max-gpu-hours", "--trials-per-gpu", "--max-concurrent"]), value=texts)  # fmt: skip
def test_any_flag(flag, value):
    code, out, err = planned("--space", "smoke", f"{flag}={value}")
    if code:
        line_of(code, out, err)


def test_an_out_that_is_a_file(tmp_path):
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


def written(path, **parts):
    path.write_text(FILE.substitute({**PARTS, **parts}), encoding="utf-8")
    return path


def test_the_file_that_the_others_spoil(tmp_path):
    code, out, _ = planned("--space", written(tmp_path / "mine.py"))
    assert (code, json.loads(out)["search_trials"]) == (0, 2)


@fixed(150)
@given(part=st.sampled_from([*PARTS]), value=junk.map(repr).filter(lambda text: len(text) < 4300))
def test_any_part_of_a_space_file(tmp_path, part, value):
    code, out, err = planned("--space", written(tmp_path / "mine.py", **{part: value}))
    if code:
        line_of(code, out, err)
    else:
        described = json.loads(out)
        (cell,) = described["cells"]
        assert described["search_trials"] == (described["trials_per_cell"] if cell["search"] else 1)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"grid": "lambda axes: (5,)"}, ["its grid gives 5", "Cells"]),
        ({"grid": "lambda axes: 5"}, ["no cells for these axes", "TypeError"]),
        ({"grid": "lambda axes: axes['rank']"}, ["no cells for these axes: none", "KeyError"]),
        ({"grid": "lambda axes: (cell, cell)"}, ["two cells named 'one'"]),
        ({"grid": "lambda axes: __import__('itertools').repeat(cell)"}, ["two cells named 'one'"]),
        ({"search": "{'learning_rate': (0.1, 0.2)}"}, ["learning_rate is searched in (0.1, 0.2)", "Real, Whole"]),
        ({"search": "{'learning_rate': Choice(())}", "first": "()"}, ["choice of ()", "one value or more"]),
        ({"search": "{'learning_rate': Choice('ab')}"}, ["choice of 'ab'", "a tuple"]),
        ({"search": "{'learning_rate': Real('a', 1)}"}, ["range 'a' to 1"]),
        ({"search": "{'learning_rate': Real(-inf, 1)}"}, ["range -inf to 1"]),
        ({"search": "{'learning_rate': Real(nan, 1)}"}, ["range nan to 1"]),
        ({"search": "{'max_steps': Whole(1, 5)}", "first": "()"}, ["max_steps is one for all cells"]),
        ({"fixed": "{'method': 'lopt1', 'length': 8, 'rank': 3, 'max_steps': 5}"}, ["max_steps is one for all cells"]),
        ({"first": "({'batch_size': 4},)"}, ["first gives batch_size the value 4", "outside"]),
        ({"first": "({'learning_rate': 5},)"}, ["first gives learning_rate the value 5", "outside"]),
        ({"first": "{'learning_rate': 0.1}"}, ["first is {'learning_rate': 0.1}", "tuple of mappings"]),
        ({"base": "{'task': 'toy', 'backbone': 'tiny', 'options': 5}"}, ["options is 5"]),
        ({"title": "'a\\nb'"}, ["title of a space is 'a\\nb'", "one line"]),
        ({"trials": "True"}, ["trials is True"]),
    ],
    ids=lambda value: ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_bad_part_is_named(tmp_path, parts, words):
    refused(main, "--space", written(tmp_path / "mine.py", **parts), "--dry-run", words=words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["AttributeError", "SPEC"]),
        (b"def", ["SyntaxError"]),
        (b"\x80\x00\xff", ["gives no space"]),
        (b"\0\0", ["gives no space"]),
        (b"SPEC = 5", ["AttributeError"]),
        (b"SPEC = type('S', (), {'build': staticmethod(lambda profile: None)})", ["its SPEC builds None"]),
        (b"SPEC = type('S', (), {'build': staticmethod(lambda: None)})", ["TypeError"]),
        (b"raise ValueError('two\\nlines')", ["mine.py", "ValueError: two lines"]),
        (b"raise RuntimeError", ["RuntimeError"]),
        (b"raise SystemExit(0)", ["SystemExit: 0"]),
        (b"import sys; sys.exit('bye')", ["SystemExit: bye"]),
        (b"import no_such_module", ["ModuleNotFoundError", "no_such_module"]),
        (b"def f(): f()\nf()", ["RecursionError"]),
        (b"x = " + b"[" * 500, ["gives no space"]),
    ],
)
def test_a_file_that_gives_no_space(tmp_path, content, words):
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    refused(main, "--space", path, "--dry-run", words=["mine.py", *words])


def test_a_folder_that_is_called_like_a_file(tmp_path):
    (tmp_path / "mine.py").mkdir()
    refused(main, "--space", tmp_path / "mine.py", "--dry-run", words=["does not exist", "smoke"])


def test_two_cells_of_the_same_trials_are_refused():
    """A record says of which cell it is, so the other one would never be complete."""
    smoke = spaces.load("smoke", "paper")
    twins = lambda axes: (*smoke.grid(axes), dataclasses.replace(smoke.grid(axes)[1], name="another name"))  # noqa: E731
    with pytest.raises(ValueError, match=r"lopt1 n=4 r=2 and another name have the same trials"):
        check_space(dataclasses.replace(smoke, grid=twins))
