"""Initial values and learning rates in units of the embeddings' scale, and initial factors of LoPT-1."""

import numpy as np
import pytest
import torch

from lopt import backbones, methods
from lopt.config import TrialConfig
from lopt.initial import factorise
from lopt.methods import Shape
from lopt.training import Trial

SCALE = 64.0  # a power of two, so that scaling does not round
METHODS = ["prompt_tuning", "lopt1", "lopt2", "dept", "ulpt"]


def config_of(tiny, method, **options):
    spec = methods.get(method)
    length, rank = (4 if spec.uses_length else None), (2 if spec.uses_rank else None)
    values = {"method": method, "length": length, "rank": rank, "precision": "fp64", "options": options}
    return TrialConfig.from_dict({**tiny.to_dict(), **values, "learning_rate": 0.3})


def scaled_twin(backbone):
    """Return a copy that computes the same function, with embeddings that are `SCALE` times larger.

    Everything that is added to the residual stream is scaled, and RMS norms undo that, except for their epsilon.
    """
    twin = backbone.copy()
    with torch.no_grad():
        for name, weight in twin.model.named_parameters():
            if any(part in name for part in ("embed_tokens", "o_proj", "down_proj")):
                weight.mul_(SCALE)
            elif name == "model.norm.weight":
                weight.div_(SCALE)  # the head is the matrix of embeddings
    for module in twin.model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = module.variance_epsilon * SCALE**2
    return twin


def losses_of(config, monkeypatch, backbone):
    monkeypatch.setattr(backbones, "load", lambda *_: backbone)
    trial = Trial(config, phase="search")
    return [float(trial.update()) for _ in range(6)]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_another_scale_trains_in_the_same_way(tiny, method, monkeypatch):
    backbone = backbones.load("tiny", "fp64")
    twin = scaled_twin(backbone)
    in_units = config_of(tiny, method, unit="embeddings")
    absolute = config_of(tiny, method)
    losses = losses_of(in_units, monkeypatch, backbone)
    assert losses_of(in_units, monkeypatch, twin) == pytest.approx(losses, rel=1e-4)
    assert losses_of(absolute, monkeypatch, twin) != pytest.approx(losses_of(absolute, monkeypatch, backbone), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_absolute_unit_changes_no_key(tiny, method):
    assert config_of(tiny, method).key == config_of(tiny, method, unit="absolute").key
    assert config_of(tiny, method).key != config_of(tiny, method, unit="embeddings").key


def test_an_unknown_unit_is_refused(tiny):
    with pytest.raises(ValueError, match="unit is 'metres'; valid: absolute, embeddings"):
        config_of(tiny, "lopt1", unit="metres")


def test_embeddings_as_initial_values_have_their_scale_already(tiny):
    backbone = backbones.load("tiny", "fp64")
    vocabulary = backbone.vocabulary((" a", " b"))
    method = methods.get("prompt_tuning")
    values = {}
    for unit in ("absolute", "embeddings"):
        options = method.check(length=4, rank=None, options={"init": "vocabulary", "unit": unit})
        shape = Shape(width=backbone.width, length=4, options=options)
        values[unit] = method.initial_values(shape, 3, vocabulary)["X"]
    np.testing.assert_array_equal(values["absolute"], values["embeddings"])


@pytest.mark.parametrize("init", ["vocabulary", "label_words"])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_lopt1_begins_with_the_best_approximation_of_prompt_tunings_prompt(init, rank):
    backbone = backbones.load("tiny", "fp64")
    vocabulary = backbone.vocabulary((" a", " b"))
    values = {}
    for name in ("prompt_tuning", "lopt1"):
        method = methods.get(name)
        method_rank = rank if method.uses_rank else None
        options = method.check(length=4, rank=method_rank, options={"init": init})
        shape = Shape(width=backbone.width, length=4, rank=method_rank, options=options)
        values[name] = method.initial_values(shape, 5, vocabulary)
    whole, product = values["prompt_tuning"]["X"], values["lopt1"]["U"] @ values["lopt1"]["V"]
    singular_values = np.linalg.svd(whole, compute_uv=False)
    error = np.linalg.norm(whole - product)
    assert error == pytest.approx(np.sqrt((singular_values[rank:] ** 2).sum()), abs=1e-9), "Eckart and Young"


def test_both_factors_have_entries_of_the_same_size_and_fixed_signs():
    matrix = np.random.default_rng(0).normal(size=(6, 40))
    u, v = factorise(matrix, 3)
    assert (u**2).mean() == pytest.approx((v**2).mean())
    assert (v[np.arange(3), np.abs(v).argmax(axis=1)] > 0).all()
    u_full, v_full = factorise(matrix, 6)
    np.testing.assert_allclose(u_full @ v_full, matrix)
