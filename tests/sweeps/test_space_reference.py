"""The reference that a space declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sweeps import spaces

ROOT = Path(__file__).resolve().parents[2]
TASK_TOML = (
    'columns = ["body"]\nclasses = ["bug", "other"]\ntemplate = "{body} This is about"\n'
    'label_words = [" errors", " other"]\ntrain = "train.csv"\nreport = "test.csv"\n'
)


def test_every_space_declares_a_reference_that_one_of_its_cells_has():
    for name in spaces.names():
        space = spaces.load(name, "paper")
        fields = {**space.reference}
        assert space.to_dict()["reference"] == fields
        configs = [config for cell in space.cells for config in space.sample_configs(cell)]
        searched_methods = [str(cell.search.get("method")) for cell in space.cells]
        is_searched = any("prompt_tuning" in text for text in searched_methods) and set(fields) == {"method"}
        assert is_searched or any(
            all(getattr(config, field) == value for field, value in fields.items()) for config in configs
        )
    assert spaces.load("ablation", "demo").reference == {"method": "prompt_tuning", "length": 10}


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("prompt_tuning", "give a mapping"),
        ({}, "is empty"),
        ({"lenght": 10}, "Did you mean 'length'"),
        ({"task": "sst2"}, "has 'task'"),
        ({"length": (10, 20)}, "give one text or number"),
        ({"dropout": float("nan")}, "give a finite number"),
    ],
)
def test_a_wrong_reference_is_refused(reference, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(spaces.load("smoke", "paper"), reference=reference)


def test_the_reference_does_not_change_the_identity():
    space = spaces.load("smoke", "paper")
    assert dataclasses.replace(space, reference={"method": "lopt1"}).identity() == space.identity()
