"""Trial configurations: defaults, keys that never change, and refusals of bad values."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import methods
from lopt.config import CONFIG_FIELDS, TrialConfig, fill_in_defaults
from lopt.settings import TrialSettings

BASE = {"method": "lopt1", "task": "toy", "backbone": "tiny", "length": 4, "rank": 2, "learning_rate": 0.1}


def test_defaults_are_filled_in_so_that_a_record_says_what_was_used():
    config = TrialConfig(**BASE)
    assert config.template == "{text} It was"
    assert config.label_words == (" bad", " great")
    assert dict(config.options) == {"init": "uniform", "init_bound": 0.5, "placement": "prefix", "unit": "absolute"}
    assert config.key == TrialConfig(**BASE, template="{text} It was", options={"init_bound": 0.5}).key


def test_settings_may_name_an_unknown_method_task_and_backbone():
    settings = TrialSettings(method="of another program", task="/gone", backbone="nobody/knows", options={"any": 1})
    assert (settings.template, settings.label_words, settings.learning_rate) == (None, None, None)
    with pytest.raises(ValueError, match="unknown method 'of another program'"):
        fill_in_defaults(settings)


@pytest.mark.parametrize("name", methods.names())
def test_settings_that_are_not_given_come_from_the_methods_recipe(name):
    method = methods.get(name)
    config = TrialConfig(method=name, task="toy", backbone="tiny", rank=2 if method.uses_rank else None)
    recipe = method.recipe
    assert (config.learning_rate, config.optimizer, config.schedule, config.warmup, config.weight_decay) == (
        recipe.learning_rate,
        recipe.optimizer,
        recipe.schedule,
        recipe.warmup,
        recipe.weight_decay,
    )
    assert config.length == (10 if method.uses_length else None)
    settings = {"learning_rate": 0.25, "optimizer": "adamw", "schedule": "linear", "warmup": 0.5, "weight_decay": 0.125}
    changed = config.replace(**settings)
    assert {field: getattr(changed, field) for field in settings} == settings


def test_the_recipe_of_the_paper():
    config = TrialConfig(method="lopt1", task="toy", backbone="tiny", rank=2)
    assert (config.learning_rate, config.optimizer, config.schedule) == (0.3, "adafactor", "constant")
    assert (config.warmup, config.weight_decay, config.length) == (0.0, 0.0, 10)


def test_the_default_template_depends_on_the_kind_of_backbone():
    templates = {name: TrialConfig(method="prompt_tuning", task="rte", backbone=name).template
                 for name in ("gpt2", "tiny", "t5-base")}  # fmt: skip
    assert templates["t5-base"] == "sentence1: {premise} sentence2: {hypothesis} {mask}"
    assert templates["gpt2"] == templates["tiny"] == "{premise} Question: {hypothesis} Yes or no? Answer:"


def test_a_round_trip_through_a_dict_keeps_the_key():
    config = TrialConfig(**BASE)
    restored = TrialConfig.from_dict(config.to_dict())
    assert restored == config
    assert restored.key == config.key


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
        {"warmup": 0.1},
        {"weight_decay": 1e-5},
        {"clip_norm": 2.0},
        {"dropout": 0.1},
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
        {"shots": 9},
        {"holdout": "validation"},
        {"metric": "macro_f1"},
        {"restarts": 1},
        {"held_out_examples": 9},
        {"data_seed": 1},
        {"precision": "fp32"},
        {"data_revision": "x"},
        {"model_revision": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_the_key(change):
    assert TrialConfig(**{**BASE, **change}).key != TrialConfig(**BASE).key


def test_the_changes_above_cover_every_field():
    marks = test_every_field_changes_the_key.pytestmark
    changed_fields = {name for change in marks[0].args[1] for name in change}
    assert changed_fields == set(CONFIG_FIELDS)


# Keys of trials that were recorded before warm-up, few-shot training, halved validation and the later options existed.
_OLD_TRIALS = [
    ("c3a4ffa7f138e73f", BASE),
    ("7be3b8db34bee80e", {**BASE, "method": "prompt_tuning", "rank": None}),
    ("403a4dacea4d12ff", {**BASE, "method": "lopt2", "options": {"x0_seed": 0}}),  # the default at that time
    ("8ec3bbc12562e0f2", {**BASE, "optimizer": "adamw", "weight_decay": 1e-5, "schedule": "linear"}),
    (
        "48b3042266cb6489",
        {"method": "lopt1", "task": "sst2", "backbone": "gpt2-large", "length": 20, "rank": 5, "learning_rate": 0.3,
         "seed": 3, "precision": "bf16", "data_revision": "0123456789abcdef",
         "model_revision": "hub:0123456789abcdef"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("key", "values"), _OLD_TRIALS, ids=[key for key, _ in _OLD_TRIALS])
def test_trials_of_older_runs_keep_their_keys(key, values):
    assert TrialConfig(**values).key == key
    options = {**values.get("options", {}), "placement": "prefix"}
    later_defaults = {"warmup": 0.0, "shots": None, "holdout": "train", "metric": "accuracy", "dropout": 0}
    assert TrialConfig(**{**values, **later_defaults, "options": options}).key == key, "defaults may be given"


def test_later_options_change_the_key_only_when_they_are_used():
    prompt_tuning = {**BASE, "method": "prompt_tuning", "rank": None}
    with_options = [
        TrialConfig(**prompt_tuning, options={"placement": "suffix"}),
        TrialConfig(**prompt_tuning, options={"init": "vocabulary"}),
        TrialConfig(**{**BASE, "method": "lopt2"}, options={"activation": "relu"}),
    ]
    without_options = [TrialConfig(**prompt_tuning), TrialConfig(**{**BASE, "method": "lopt2"})]
    assert len({config.key for config in with_options + without_options}) == 5


def _write_task_folder(folder):
    folder.mkdir(parents=True)
    (folder / "task.toml").write_text(
        'columns = ["text"]\nclasses = ["no", "yes"]\ntemplate = "{text} It was"\n'
        'label_words = [" bad", " great"]\ntrain = "train.csv"\nreport = "test.csv"\n'
    )
    return folder


def test_the_key_does_not_depend_on_where_a_folder_is(tmp_path, monkeypatch):
    folder, same_name_elsewhere = (_write_task_folder(tmp_path / parent / "reviews") for parent in ("a", "b/c"))
    another_name = _write_task_folder(tmp_path / "a" / "letters")
    key = TrialConfig(**{**BASE, "task": str(folder)}).key
    assert TrialConfig(**{**BASE, "task": str(same_name_elsewhere)}).key == key
    assert TrialConfig(**{**BASE, "task": f"{same_name_elsewhere}/"}).key == key
    assert TrialConfig(**{**BASE, "task": str(another_name)}).key != key
    assert TrialConfig(**{**BASE, "task": str(folder), "data_revision": "another"}).key != key
    model_keys = [TrialConfig(**{**BASE, "backbone": f"/{parent}/my-gpt2"}).key for parent in ("a", "b/c")]
    assert model_keys[0] == model_keys[1] != TrialConfig(**BASE).key

    monkeypatch.chdir(tmp_path / "a")
    relative = TrialConfig(**{**BASE, "task": "./reviews"})
    assert relative.key == key
    assert relative.task == str(folder), "the whole path, because a worker has another working directory"
    assert TrialConfig.from_dict(relative.to_dict()) == relative


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
        ({"shots": 0}, ["shots is 0", "whole number, 1 or more"]),
        ({"shots": 2.5}, ["shots is 2.5", "whole number, 1 or more"]),
        ({"shots": True}, ["shots is True"]),
        ({"shots": 4, "train_examples": 40}, ["shots is 4", "train_examples 40", "one of them"]),
        ({"holdout": "test"}, ["holdout is 'test'", "train, validation"]),
        ({"holdout": "valid"}, ["holdout is 'valid'", "Did you mean 'validation'"]),
        ({"holdout": None}, ["holdout is None", "train, validation"]),
        ({"dropout": 1.0}, ["dropout is 1.0", "0 or more and below 1"]),
        ({"dropout": -0.1}, ["dropout is -0.1", "0 or more and below 1"]),
        ({"dropout": float("nan")}, ["dropout is nan", "below 1"]),
        ({"dropout": True}, ["dropout is True", "below 1"]),
        ({"dropout": None}, ["dropout is None", "below 1"]),
        ({"metric": "macro-f1"}, ["metric is 'macro-f1'", "accuracy, exact_match", "Did you mean 'macro_f1'"]),
        ({"metric": ["accuracy"]}, ["metric is ['accuracy']", "accuracy, exact_match"]),
        ({"warmup": 1.0}, ["warmup is 1.0", "0 or more and below 1"]),
        ({"warmup": -0.1}, ["warmup is -0.1", "0 or more and below 1"]),
        ({"warmup": float("nan")}, ["warmup is nan"]),
        ({"warmup": "0.1"}, ["warmup is '0.1'"]),
        ({"warmup": 500}, ["warmup is 500", "below 1"]),
        ({"method": "lora"}, ["length is 4", "lora has no prompt", "leave it out"]),
        ({"method": "fine_tuning", "length": None}, ["rank is 2", "fine_tuning has no rank"]),
        ({"schedule": "cosine"}, ["schedule is 'cosine'", "constant, linear"]),
        ({"precision": "fp16"}, ["precision is 'fp16'", "bf16"]),
        ({"optimizer": "adam"}, ["optimizer is 'adam'", "Did you mean 'adamw'"]),
        ({"options": {"x0_seed": 1}}, ["unknown option 'x0_seed'", "init_bound"]),
        ({"options": {"init_bound": 0}}, ["init_bound is 0"]),
        ({"template": "{txt} It was"}, ["{txt}", "{text}"]),
        ({"template": "It was"}, ["leaves out {text}"]),
        ({"template": "{text"}, ["cannot be read"]),
        ({"template": "{text} {mask} {mask}"}, ["names {mask} twice"]),
        ({"template": "{text} {text}"}, ["names {text} twice"]),
        ({"template": "{{text}} {text}"}, ["names {text} twice"]),
        ({"template": "{text!r}"}, ["formats a field"]),
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


def test_an_unknown_setting_names_the_nearest_valid_one():
    with pytest.raises(ValueError, match=r"unknown setting 'lerning_rate'.*Did you mean 'learning_rate'"):
        TrialConfig.from_dict({**BASE, "lerning_rate": 1})
    with pytest.raises(ValueError, match="a trial needs task: give it"):
        TrialConfig.from_dict({"method": "lopt1", "rank": 2})
    with pytest.raises(ValueError, match="a trial needs method, task: give them"):
        TrialConfig.from_dict({"rank": 2})


@given(rate=st.floats(1e-6, 10), seed=st.integers(0, 2**31), length=st.integers(2, 100))
def test_equal_configurations_have_equal_keys_and_different_ones_do_not(rate, seed, length):
    values = {**BASE, "learning_rate": rate, "seed": seed, "length": length}
    assert TrialConfig(**values).key == TrialConfig(**values).key
    assert TrialConfig(**values).key != TrialConfig(**{**values, "seed": seed + 1}).key
