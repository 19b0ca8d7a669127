"""`--set key=value`: ranges keep their kind and scale, and for a name of other programs ours is suggested."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import methods
from lopt.config import TrialConfig
from lopt.ranges import Choice, Real, Whole
from lopt.registry import did_you_mean
from sweeps import spaces
from sweeps.planning import settings
from sweeps.run import main
from sweeps.space import SPACE_FIELDS, Cell
from tests.bad_input import fixed, refused

SMOKE = spaces.load("smoke", "paper")


def space_searching(**search):
    """Return the smoke space with one cell of DePT that searches these ranges."""
    cell = Cell(name="one", fixed={"method": "dept", "length": 4, "rank": 2}, search=search)
    return dataclasses.replace(SMOKE, axes={}, grid=lambda axes: (cell,))


def range_after_set(old_range, text, name):
    (cell,) = settings.with_settings(space_searching(**{name: old_range}), {name: text}).cells
    return cell.search[name]


@pytest.mark.parametrize(
    ("name", "old_range", "text", "new_range"),
    [
        ("init_bound", Real(0.1, 1.0), "0.2:0.8", Real(0.2, 0.8)),
        ("init_bound", Real(0.1, 1.0), "1:2", Real(1, 2)),
        ("init_bound", Real(0.1, 1.0, log=True), "1:2", Real(1, 2, log=True)),
        ("alpha", Real(1.0, 64.0, log=True), "4:32", Real(4, 32, log=True)),
        ("alpha", Choice((8.0, 16.0)), "4:32", Real(4, 32, log=True)),
        ("alpha", Choice((8, 16)), "4:32", Real(4, 32, log=True)),
        ("update_learning_rate", Choice((5e-4, 1e-3)), "1e-4:1e-2", Real(1e-4, 1e-2, log=True)),
        ("update_tokens", Choice((64, 256)), "32:256", Whole(32, 256, log=True)),
        ("learning_rate", Real(0.1, 1.0), "0.2:0.5", Real(0.2, 0.5)),
        ("learning_rate", Choice((1, 2)), "0.2:0.5", Real(0.2, 0.5, log=True)),
        ("warmup", Real(0.0, 0.5), "0:0.2", Real(0, 0.2)),
        ("warmup", Choice((0.0, 0.1)), "0:0.2", Real(0, 0.2)),
        ("clip_norm", Choice((1, 2)), "0.5:2", Real(0.5, 2, log=True)),
        ("weight_decay", Real(1e-6, 1e-2, log=True), "1e-5:1e-3", Real(1e-5, 1e-3, log=True)),
        ("batch_size", Whole(4, 64, log=True), "8:16", Whole(8, 16, log=True)),
        ("batch_size", Whole(4, 64), "8:16", Whole(8, 16)),
        ("batch_size", Choice((8, 16)), "8:32", Whole(8, 32, log=True)),
    ],
)
def test_a_range_keeps_the_kind_and_scale_that_the_space_declares(name, old_range, text, new_range):
    assert range_after_set(old_range, text, name) == new_range


@given(
    st.sampled_from([Real(0.1, 0.5), Real(0.1, 0.5, log=True), Whole(2, 9), Whole(2, 9, log=True)]),
    st.integers(1, 50),
    st.integers(1, 50),
)
@fixed(40)
def test_whole_ends_change_neither_kind_nor_scale(old_range, low, width):
    name = "alpha" if isinstance(old_range, Real) else "batch_size"
    new_range = range_after_set(old_range, f"{low}:{low + width}", name)
    assert new_range == type(old_range)(low, low + width, log=old_range.log)


@pytest.mark.parametrize("name", methods.names())
def test_the_ranges_of_a_method_keep_their_kind_and_scale(name):
    space = spaces.load("search", "demo")
    for field, declared in methods.get(name).ranges.items():
        if isinstance(declared, Choice):
            continue
        low = 0.02 if isinstance(declared, Real) else 6
        (cell,) = settings.with_settings(space, {"method": f"lopt1,{name}" if name != "lopt1" else "lopt1,lora",
                                                f"{name}.{field}": f"{low}:{2 * low}"}).cells  # fmt: skip
        assert cell.search[f"{name}.{field}"] == type(declared)(low, 2 * low, log=declared.log)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["smoke", "learning_rate=0:0.2"], ["learning_rate is '0:0.2'", "logarithmic", "give a low end above 0"]),
        (["smoke", "learning_rate=0.5:0.2"], ["learning_rate: range 0.5 to 0.2", "low < high"]),
        (["smoke", "learning_rate=0.1:"], ["learning_rate is '0.1:'", "low:high"]),
        (["smoke", "learning_rate=0.1:0.2:0.3"], ["low:high"]),
        (["search", "rank=1.5:3"], ["rank: range 1.5 to 3", "whole numbers"]),
        (["search", "init_bound=0.2:0.8"], ["init_bound is '0.2:0.8'", "does not search init_bound", "space file"]),
        (["smoke", "batch_size=8:16"], ["batch_size is '8:16'", "learning_rate", "space file of your own"]),
        (["smoke", "length=4:8"], ["length is '4:8'", "length is an axis", "length=1,2"]),
        (["smoke", "rank=3"], ["rank is fixed by the cells of space smoke", "(length)", "(learning_rate)"]),
        (["ablation", "method=lopt2"], ["method is fixed by the cells", "(length, rank)", "(learning_rate)"]),
        (["smoke", "lr=0.1"], ["unknown key 'lr'", "Did you mean 'learning_rate'?"]),
        (["smoke", "epochs=3"], ["Did you mean 'max_steps'?"]),
        (["smoke", "seed=3"], ["Did you mean 'confirm_seeds'?"]),
        (["smoke", "learning-rate=3"], ["Did you mean 'learning_rate'?"]),
    ],
)  # fmt: skip
def test_a_refused_setting_says_what_is_valid(argv, words):
    refused(main, "--space", argv[0], "--set", argv[1], "--dry-run", words=words)


@pytest.mark.parametrize(
    ("foreign_name", "our_name"),
    [("lr", "learning_rate"), ("epochs", "max_steps"), ("steps", "max_steps"), ("bs", "batch_size"), ("r", "rank"),
     ("batch", "batch_size"), ("model", "backbone"), ("dataset", "task"), ("n", "length"), ("wd", "weight_decay"),
     ("prompt_length", "length"), ("num_virtual_tokens", "length"), ("LR", "learning_rate"), ("optim", "optimizer"),
     ("max-grad-norm", "clip_norm"), ("verbalizer", "label_words")],
)  # fmt: skip
def test_a_name_of_other_programs_is_answered_with_ours(foreign_name, our_name, tiny):
    with pytest.raises(ValueError, match=f"unknown setting '{foreign_name}'.*Did you mean '{our_name}'"):
        TrialConfig.from_dict({**tiny.to_dict(), foreign_name: 1})


def test_a_name_is_suggested_only_where_it_is_valid():
    assert did_you_mean("lr", ["length", "rank"]) == ""
    assert did_you_mean("lenght", ["length", "rank"]) == " Did you mean 'length'?"


def test_every_suggestion_is_a_name_that_can_be_set():
    from lopt.registry import _OTHER_NAMES

    valid = {*TrialConfig.__dataclass_fields__, *methods.options(), *SPACE_FIELDS}
    assert set(_OTHER_NAMES) <= valid
    foreign_names = [name for names in _OTHER_NAMES.values() for name in names]
    assert len(set(foreign_names)) == len(foreign_names)
    assert not set(foreign_names) & (valid - {"seed"})


@pytest.mark.parametrize(
    ("key", "value"), [("lora.rank", "4"), ("lora.rank", "2,4"), ("lora.learning_rate", "0.001:0.01")]
)
def test_a_key_with_the_methods_name_is_valid_before_and_after_the_method_is_set(key, value):
    space = spaces.load("search", "demo")
    key_first = settings.with_settings(space, {key: value, "method": "lora"})
    method_first = settings.with_settings(space, {"method": "lora", key: value})
    (cell,), (same_cell,) = key_first.cells, method_first.cells
    assert cell.search == same_cell.search
    assert key_first.largest_configs(cell) == method_first.largest_configs(same_cell)
