"""The methods of `lopt/methods/`, and trials of them, for the contract tests."""

from __future__ import annotations

from lopt import backbones, methods
from lopt.config import TrialConfig
from lopt.methods import PromptMethod, Shape, WeightMethod
from lopt.training import Trial

METHODS = methods.names()
PROMPT_METHODS = [name for name in METHODS if isinstance(methods.get(name), PromptMethod)]
WEIGHT_METHODS = [name for name in METHODS if isinstance(methods.get(name), WeightMethod)]
WIDTH = 32  # of the tiny backbone


def dimensions(name, length=6, rank=2):
    """Length and rank; None for what the method does not have."""
    method = methods.get(name)
    return {"length": length if method.uses_length else None, "rank": rank if method.uses_rank else None}


def shape_for(name, length=6, rank=2, width=WIDTH):
    sizes = dimensions(name, length, rank)
    options = methods.get(name).check(**sizes, options={})
    return Shape(width=width, **sizes, options=options, model=backbones.facts("tiny"))


def config_for(name, **changes):
    rate = 0.1 if name in PROMPT_METHODS else 1e-3
    base = {"task": "toy", "backbone": "tiny", **dimensions(name), "learning_rate": rate, "batch_size": 8}
    return TrialConfig(method=name, **{**base, "max_steps": 4, "eval_every": 2, "precision": "fp32", **changes})


def vocabulary():
    return backbones.load("tiny", "fp32").vocabulary((" bad", " great"))


def initial_values(name, seed=0, **changes):
    return methods.get(name).initial_values(shape_for(name, **changes), seed, vocabulary())


def train_trial(config):
    trial = Trial(config)
    for _ in trial:
        pass
    return trial


def tensors_of_optimiser(trial):
    return {id(tensor): tensor for group in trial.optimizer.param_groups for tensor in group["params"]}
