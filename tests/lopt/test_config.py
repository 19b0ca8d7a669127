from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.config import FIELDS, TrialConfig

BASE = {"method": "lopt1", "task": "toy", "backbone": "tiny", "length": 4, "rank": 2, "learning_rate": 0.1}


def test_defaults_are_filled_in_so_that_a_record_says_what_was_used():
    config = TrialConfig(**BASE)
    assert config.template == "{text} It was"
    assert config.label_words == (" bad", " great")
    assert dict(config.options) == {"init_bound": 0.5}
    assert config.key == TrialConfig(**BASE, template="{text} It was", options={"init_bound": 0.5}).key


def test_round_trip_keeps_the_key():
    config = TrialConfig(**BASE)
    again = TrialConfig.from_dict(config.to_dict())
    assert again == config
    assert again.key == config.key


def test_a_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrialConfig(**BASE).rank = 3


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lopt2"},
        {"task": "movie_snippets"},
        {"backbone": "gpt2"},
        {"length": 5},
        {"rank": 1},
        {"learning_rate": 0.2},
        {"seed": 1},
        {"options": {"init_bound": 0.1}},
        {"optimizer": "adamw"},
        {"schedule": "linear"},
        {"weight_decay": 1e-5},
        {"clip_norm": 2.0},
        {"batch_size": 8},
        {"max_steps": 10},
        {"eval_every": 10},
        {"template": "{text} so"},
        {"label_words": (" a", " b")},
        {"max_tokens": 9},
        {"train_examples": 9},
        {"train_min_tokens": 9},
        {"train_max_tokens": 9},
        {"selection_examples": 9},
        {"test_examples": 9},
        {"data_seed": 1},
        {"precision": "fp32"},
        {"data_revision": "x"},
        {"model_revision": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_the_key(change):
    assert TrialConfig(**{**BASE, **change}).key != TrialConfig(**BASE).key


def test_the_list_above_names_every_field():
    marks = test_every_field_changes_the_key.pytestmark
    named = {name for change in marks[0].args[1] for name in change}
    assert named == set(FIELDS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 0}, ["rank", "0", "1 or more"]),
        ({"rank": 5}, ["rank is 5", "length 4", "1 to 4"]),
        ({"rank": None}, ["lopt1 needs a rank", "1 to 4"]),
        ({"method": "prompt_tuning"}, ["prompt_tuning has no rank", "leave it out"]),
        ({"method": "lopt3"}, ["unknown method 'lopt3'", "prompt_tuning", "Did you mean 'lopt"]),
        ({"task": "sst3"}, ["unknown task 'sst3'", "Did you mean 'sst2'"]),
        ({"learning_rate": -0.1}, ["learning_rate is -0.1", "above 0"]),
        ({"learning_rate": float("nan")}, ["learning_rate is nan"]),
        ({"learning_rate": "0.1"}, ["learning_rate is '0.1'"]),
        ({"length": True}, ["length is True"]),
        ({"length": 2.5}, ["length is 2.5", "whole number"]),
        ({"batch_size": 0}, ["batch_size is 0"]),
        ({"precision": "fp16"}, ["precision is 'fp16'", "bf16"]),
        ({"optimizer": "adam"}, ["optimizer is 'adam'", "Did you mean 'adamw'"]),
        ({"options": {"x0_seed": 1}}, ["unknown option 'x0_seed'", "init_bound"]),
        ({"options": {"init_bound": 0}}, ["init_bound is 0"]),
        ({"template": "{txt} It was"}, ["{txt}", "{text}"]),
        ({"template": "It was"}, ["leaves out {text}"]),
        ({"template": "{text"}, ["cannot be read"]),
        ({"label_words": (" a",)}, ["give 2", "negative, positive"]),
        ({"label_words": (" a", " a")}, ["cannot share a word"]),
    ],
)
def test_bad_values_are_named_with_what_is_valid(change, words):
    with pytest.raises(ValueError) as caught:
        TrialConfig(**{**BASE, **change})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown setting 'lerning_rate'.*Did you mean 'learning_rate'"):
        TrialConfig.from_dict({**BASE, "lerning_rate": 1})
    with pytest.raises(ValueError, match="a trial needs learning_rate"):
        TrialConfig.from_dict({"method": "lopt1", "task": "toy"})


@given(rate=st.floats(1e-6, 10), seed=st.integers(0, 2**31), length=st.integers(2, 100))
def test_equal_configurations_have_equal_keys_and_no_others(rate, seed, length):
    values = {**BASE, "learning_rate": rate, "seed": seed, "length": length}
    assert TrialConfig(**values).key == TrialConfig(**values).key
    assert TrialConfig(**values).key != TrialConfig(**{**values, "seed": seed + 1}).key
