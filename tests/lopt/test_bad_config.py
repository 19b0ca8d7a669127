"""Any configuration gives a valid trial with the values given, or is refused in one line that names the field."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt.config import CONFIG_FIELDS, TrialConfig
from lopt.errors import to_one_line
from lopt.settings import LARGEST_SEED
from tests.bad_input import fixed, junk, texts

BASE = {"method": "lopt1", "task": "toy", "backbone": "tiny", "length": 4, "rank": 2}
OPTIONS = {
    "lopt1": ("placement", "init_bound"),
    "lopt2": ("activation", "u_bound", "x0_bound", "x0_seed"),
    "dept": ("update_tokens", "alpha", "init", "update_learning_rate"),
    "ulpt": ("projection_seed",),
}


def check_accepted_or_refused(values, *names):
    """Check that `values` are refused in one line with one of `names`, or accepted.

    An accepted configuration is valid JSON, survives a round trip, and holds the values that were given.
    """
    try:
        config = TrialConfig.from_dict(values)
    except ValueError as error:
        line = to_one_line(error)
        assert any(name in line for name in names), line
        assert line.isprintable() and len(line) < 1000
        return
    from_json = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert TrialConfig.from_dict(from_json) == config
    assert int(config.key, 16) >= 0
    for name in set(names) & set(CONFIG_FIELDS) - {"options", "label_words", "task"}:
        assert values[name] is None or getattr(config, name) == values[name]
        assert type(getattr(config, name)) is not bool


@fixed(250)
@given(name=st.sampled_from(CONFIG_FIELDS), value=junk)
def test_any_value_of_any_field_is_accepted_or_refused(name, value):
    also_named = {"method": ["rank", "length"], "options": ["unknown option"]}
    check_accepted_or_refused({**BASE, name: value}, name, *also_named.get(name, []))


@fixed(100)
@given(method=st.sampled_from([*OPTIONS]), value=junk, data=st.data())
def test_any_value_of_any_option_is_accepted_or_refused(method, value, data):
    name = data.draw(st.sampled_from(OPTIONS[method]))
    check_accepted_or_refused({**BASE, "method": method, "options": {name: value}}, name)


@fixed(50)
@given(values=st.dictionaries(texts, junk, min_size=1, max_size=3))
def test_any_setting_names_are_accepted_or_refused(values):
    check_accepted_or_refused({**BASE, **values}, "unknown setting", *values)


@fixed(50)
@given(values=junk)
def test_any_value_in_place_of_a_mapping_is_accepted_or_refused(values):
    check_accepted_or_refused(values, "a trial", "unknown setting")


@fixed(50)
@given(words=st.lists(texts, max_size=3), template=texts)
def test_any_label_words_and_templates_are_accepted_or_refused(words, template):
    check_accepted_or_refused({**BASE, "label_words": words}, "label_words")
    check_accepted_or_refused({**BASE, "template": template + " {text}"}, "template")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 10**400}, ["learning_rate", "above 0"]),
        ({"weight_decay": float("inf")}, ["weight_decay is inf", "0 or more"]),
        ({"seed": LARGEST_SEED + 1}, ["seed", "0 to 4,294,967,295"]),
        ({"data_seed": 2**40}, ["data_seed", "0 to 4,294,967,295"]),
        ({"max_steps": 10**400}, ["max_steps", "1 to 2,147,483,647"]),
        ({"options": 5}, ["options is 5", "a mapping"]),
        ({"options": ["placement"]}, ["options is", "a mapping"]),
        ({"label_words": "ab"}, ["label_words is 'ab'", "a list of texts"]),
        ({"label_words": 5}, ["label_words is 5", "a list of texts"]),
        ({"label_words": (" ", " great")}, ["label_words is", "give 2"]),
        ({"label_words": (" \ud800", " great")}, ["label_words is", "give 2"]),
        ({"template": "\ud800 {text}"}, ["template is", "UTF-8"]),
        ({"data_revision": 5}, ["data_revision is 5", "text"]),
        ({"task": "~nobody-has-this-name/task"}, ["not a folder with a task.toml"]),
        ({"task": "x/" + "y" * 5000}, ["not a folder with a task.toml"]),
        ({"backbone": "~nobody-has-this-name"}, ["not a folder with a config.json"]),
        ({"backbone": "/" + "y" * 5000}, ["not a folder with a config.json"]),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)  # fmt: skip
def test_values_that_an_earlier_version_accepted_or_reported_badly_are_refused(change, words):
    values = {**BASE, **change}
    if "backbone" in change:  # only a task with a causal template asks for the kind of backbone
        values["task"] = "rte"
    with pytest.raises(ValueError) as caught:
        TrialConfig.from_dict(values)
    for word in words:
        assert word in to_one_line(caught.value)


def test_a_long_error_of_many_lines_becomes_one_line():
    line = to_one_line("first\n\x1b[2J" + "x" * 10_000 + " the end")
    assert 900 < len(line) <= 993 and line.startswith("first ·[2Jx") and line.endswith("x the end")
