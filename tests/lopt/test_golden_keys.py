"""Keys of trials never change, because every version of the program finds a finished trial by its key.

Lines may be added to the golden file but never changed. This adds them: python tests/lopt/test_golden_keys.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import pytest

from lopt.config import CONFIG_FIELDS, TrialConfig, key_of_values

GOLDEN = Path(__file__).parent / "golden" / "keys.jsonl"
STORES = Path(__file__).parents[1] / "stores"
_METHODS = {
    "prompt_tuning": {"length": 10},
    "lopt1": {"length": 10, "rank": 2},
    "lopt2": {"length": 10, "rank": 2},
    "dept": {"length": 6, "rank": 3},
    "ulpt": {"length": 10, "rank": 4},
    "lora": {"rank": 8},
    "fine_tuning": {},
}
_OPTIONS = {
    "prompt_tuning": [
        {"placement": "suffix"}, {"init": "vocabulary"}, {"init": "label_words"}, {"init_bound": 0.2},
    ],
    "lopt1": [{"init_bound": 0.25}, {"init": "vocabulary"}, {"unit": "embeddings"}],
    "lopt2": [
        {"activation": "relu"}, {"x0_seed": 0}, {"x0_seed": 3}, {"x0_bound": 0.1}, {"u_bound": 0.2},
    ],
    "dept": [
        {"update_tokens": 64}, {"update_learning_rate": 0.005}, {"alpha": 4.0}, {"adam_eps": 1e-6}, {"init": "uniform"},
    ],
    "ulpt": [{"projection_seed": 0}, {"projection_seed": 7}],
    "lora": [{"alpha": 32.0}, {"targets": "q_proj+v_proj"}],
}  # fmt: skip
_CHANGES = [
    {"seed": 7}, {"learning_rate": 0.05}, {"optimizer": "adamw"}, {"schedule": "linear"}, {"warmup": 0.1},
    {"weight_decay": 0.01}, {"clip_norm": 0.5}, {"batch_size": 8}, {"max_steps": 40}, {"eval_every": 20},
    {"template": "{text} All in all"}, {"label_words": [" no", " yes"]}, {"max_tokens": 64}, {"train_min_tokens": 4},
    {"train_max_tokens": 16}, {"train_examples": 100}, {"selection_examples": 50}, {"test_examples": 50}, {"shots": 16},
    {"holdout": "validation"}, {"metric": "macro_f1"}, {"dropout": 0.1}, {"data_seed": 1}, {"precision": "fp32"},
    {"restarts": 2}, {"held_out_examples": 99},
    {"data_revision": "0123456789abcdef"}, {"model_revision": "hub:0123456789abcdef"}, {"length": 20},
    {"rank": 1}, {"backbone": "gpt2-large"}, {"backbone": "t5-base"}, {"task": "sst2"},
    {"task": "cb", "backbone": "t5-base"},
    {"task": "cb", "backbone": "gpt2"}, {"method": "lopt2"}, {"options": {"placement": "suffix"}},
]  # fmt: skip


def golden_settings():
    """Yield the settings of trials: every method, every option, and every field changed."""
    base = {"method": "lopt1", "task": "movie_snippets", **_METHODS["lopt1"]}
    for method, shape in _METHODS.items():
        bare = {"method": method, "task": "movie_snippets", **shape}
        yield bare
        yield from ({**bare, "options": options} for options in _OPTIONS.get(method, ()))
    yield from ({**base, **change} for change in _CHANGES)


def golden_lines():
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


@pytest.mark.parametrize("number", range(len(golden_lines()) if GOLDEN.exists() else 0))
def test_a_trial_keeps_its_key(number):
    line = golden_lines()[number]
    assert TrialConfig(**line["settings"]).key == line["key"]
    assert key_of_values(line["config"]) == line["key"], "the configuration as an old record stores it"
    assert TrialConfig.from_dict(line["config"]).key == line["key"]


def test_the_golden_file_has_every_field():
    assert set().union(*(line["settings"] for line in golden_lines())) == set(CONFIG_FIELDS)


@pytest.mark.parametrize("schema", ["schema-1", "schema-2", "schema-3", "schema-4"])
def test_records_of_every_schema_keep_their_keys(schema):
    files = sorted((STORES / schema / "trials").glob("*.json"))
    assert files
    for file in files:
        config = json.loads(file.read_text())["config"]
        assert key_of_values(config) == TrialConfig.from_dict(config).key == file.stem


if __name__ == "__main__":
    existing_lines = golden_lines() if GOLDEN.exists() else ()
    lines = {json.dumps(line["settings"], sort_keys=True): line for line in existing_lines}
    for values in golden_settings():
        config = TrialConfig(**values)
        line = {"settings": values, "config": config.to_dict(), "key": config.key}
        lines.setdefault(json.dumps(values, sort_keys=True), line)
    GOLDEN.write_text("".join(json.dumps(line, sort_keys=True) + "\n" for line in lines.values()))
