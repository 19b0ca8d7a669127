"""A saved prompt as initial values: what a trial begins with, what its key says of it, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from lopt import TrialConfig, load_prompt, methods, train
from lopt.training import Trial
from sweeps.run import main


def config(**changes):
    base = {"method": "prompt_tuning", "task": "toy", "backbone": "tiny", "length": 5, "learning_rate": 0.1}
    return TrialConfig(**{**base, "batch_size": 8, "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes})


def saved(folder, **changes):
    train(config(**changes), artifact=folder)
    return folder


@pytest.mark.parametrize(
    ("source", "method", "factor"), [("prompt_tuning", "prompt_tuning", "X"), ("lopt1", "dept", "P")]
)
def test_a_trial_begins_with_the_prompt_as_it_stood_at_the_input(source, method, factor, tmp_path):
    folder = saved(tmp_path / "first", method=source, rank=2 if source == "lopt1" else None)
    rank = 2 if method == "dept" else None
    for seed in (0, 1):
        trial = Trial(config(method=method, rank=rank, seed=seed, options={"init": str(folder)}))
        assert torch.equal(trial.factors[factor].detach(), load_prompt(folder).prompt_PH)


def test_the_key_depends_on_the_content_and_a_configuration_outlives_the_folder(tmp_path, monkeypatch):
    folder = saved(tmp_path / "first")
    before = config(options={"init": str(folder)})
    monkeypatch.chdir(tmp_path)
    assert config(options={"init": "first"}).key == before.key
    record = train(before, artifact=tmp_path / "second")
    shutil.rmtree(folder)
    assert TrialConfig.from_dict(json.loads(json.dumps(record.config))).to_dict() == record.config
    assert load_prompt(tmp_path / "second").test_accuracy == record.test_accuracy
    saved(folder, seed=1)
    assert config(options={"init": str(folder)}).key != before.key
    with pytest.raises(ValueError, match="the prompt in that folder is another one now"):
        Trial(before)


def test_what_cannot_be_begun_with_is_refused_in_one_line(tmp_path, capsys):
    folder = saved(tmp_path / "first")
    for changes, message in (
        (
            {"length": 6},
            "a prompt of 5 rows of width 32, and this trial's is 6 rows of width 32: give length 5",
        ),
        ({"backbone": "embedded"}, "5 rows of width 576: give length 5, and a backbone of width 32"),
    ):
        with pytest.raises(ValueError, match=message):
            methods.counts_of(config(options={"init": str(folder)}, **changes))
    with pytest.raises(ValueError, match="unknown option 'init' of method lopt1"):
        config(method="lopt1", rank=2, options={"init": str(folder)})
    with pytest.raises(ValueError, match="valid: uniform, vocabulary, label_words, or a folder that holds a prompt"):
        config(options={"init": str(tmp_path / "none")})
    weights = saved(tmp_path / "weights", method="fine_tuning", length=None)
    with pytest.raises(ValueError, match="gives no prompt"):
        config(options={"init": str(weights)})
    plan = ["--space", "ablation", "--profile", "demo", "--dry-run", "--set", f"init={folder}"]
    assert main(plan) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "give length 5, and a backbone of width 32" in line
