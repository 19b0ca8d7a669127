"""A saved prompt as initial values: what a trial begins with, what its key depends on, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lopt import TrialConfig, load_prompt, methods, train
from lopt.training import Trial
from sweeps.run import main


def trial_config(**changes):
    settings = {"method": "prompt_tuning", "task": "toy", "backbone": "tiny", "length": 5, "learning_rate": 0.1}
    return TrialConfig(**{**settings, "batch_size": 8, "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes})


def train_and_save(folder, **changes):
    train(trial_config(**changes), artifact=folder)
    return folder


@pytest.mark.parametrize(
    ("source", "method", "factor"), [("prompt_tuning", "prompt_tuning", "X"), ("lopt1", "dept", "P")]
)
def test_a_trial_begins_with_the_saved_prompt(source, method, factor, tmp_path):
    folder = train_and_save(tmp_path / "first", method=source, rank=2 if source == "lopt1" else None)
    rank = 2 if method == "dept" else None
    for seed in (0, 1):
        trial = Trial(trial_config(method=method, rank=rank, seed=seed, options={"init": str(folder)}))
        assert torch.equal(trial.factors[factor].detach(), load_prompt(folder).prompt_PH)


def test_the_key_depends_on_the_saved_prompt_and_a_configuration_outlives_its_folder(tmp_path, monkeypatch):
    folder = train_and_save(tmp_path / "first")
    config = trial_config(options={"init": str(folder)})
    monkeypatch.chdir(tmp_path)
    assert trial_config(options={"init": "first"}).key == config.key
    record = train(config, artifact=tmp_path / "second")
    shutil.rmtree(folder)
    assert TrialConfig.from_dict(json.loads(json.dumps(record.config))).to_dict() == record.config
    assert load_prompt(tmp_path / "second").test_accuracy == record.test_accuracy
    train_and_save(folder, seed=1)
    assert trial_config(options={"init": str(folder)}).key != config.key
    with pytest.raises(ValueError, match="that folder holds another prompt now"):
        Trial(config)


def test_a_saved_prompt_that_does_not_fit_is_refused_in_one_line(tmp_path, capsys):
    folder = train_and_save(tmp_path / "first")
    for changes, message in (
        (
            {"length": 6},
            "a prompt of 5 rows of width 32, but this trial's has 6 rows of width 32: give length 5",
        ),
        ({"backbone": "embedded"}, "5 rows of width 576: give length 5 and a backbone of width 32"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.counts_of(trial_config(options={"init": str(folder)}, **changes))
    with pytest.raises(ValueError, match="unknown option 'init' of method lopt2"):
        trial_config(method="lopt2", rank=2, options={"init": str(folder)})
    with pytest.raises(ValueError, match="valid: uniform, vocabulary, label_words, or a folder that holds a prompt"):
        trial_config(options={"init": str(tmp_path / "none")})
    weights = train_and_save(tmp_path / "weights", method="fine_tuning", length=None)
    with pytest.raises(ValueError, match="gives no prompt"):
        trial_config(options={"init": str(weights)})
    plan = ["--space", "ablation", "--profile", "demo", "--dry-run", "--set", f"init={folder}"]
    assert main(plan) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "give length 5 and a backbone of width 32" in line
