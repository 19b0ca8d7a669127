"""How low-rank a trained prompt is: its singular values, and its accuracy after a cut to a lower rank."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from lopt import methods, restarts
from lopt.evaluation import predict_split
from lopt.low_rank import LowRank, cut_ranks, cut_to_rank, measure, singular_values, stable_rank
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial


def random_matrix(length=12, width=20, seed=0):
    return np.random.default_rng(seed).normal(size=(length, width))


@pytest.fixture(scope="module")
def trained():
    """A trained full prompt of length 12."""
    from lopt.config import TrialConfig

    config = TrialConfig(
        method="prompt_tuning", task="toy", backbone="tiny", length=12, learning_rate=0.3, batch_size=8, max_steps=6,
        eval_every=3, precision="fp32", options={"placement": "suffix"},
    )  # fmt: skip
    trial = Trial(config)
    for _ in trial:
        pass
    trial.finish()
    return trial


@pytest.mark.parametrize("shape", [(1, 5), (4, 4), (12, 20), (30, 7)])
def test_singular_values_and_stable_rank_are_those_of_numpy(shape):
    matrix = random_matrix(*shape)
    values = singular_values(torch.tensor(matrix))
    np.testing.assert_allclose(values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-12)
    expected = np.linalg.norm(matrix, "fro") ** 2 / np.linalg.norm(matrix, 2) ** 2
    assert stable_rank(values) == pytest.approx(expected, rel=1e-12)


def test_the_stable_rank_of_known_matrices():
    assert stable_rank(singular_values(torch.eye(7))) == pytest.approx(7)
    assert stable_rank(singular_values(torch.outer(torch.arange(1.0, 5.0), torch.ones(9)))) == pytest.approx(1)
    with pytest.raises(ValueError, match="zero"):
        stable_rank(singular_values(torch.zeros(3, 4)))


def test_a_prompt_of_known_rank_has_that_rank_and_survives_the_cut_to_it():
    prompt_PH = random_matrix(12, 3) @ random_matrix(3, 20, seed=1)
    values = singular_values(torch.tensor(prompt_PH))
    assert sum(value > 1e-10 * values[0] for value in values) == 3
    for rank in (3, 5):
        cut = cut_to_rank(SoftPrompt(prompt=torch.tensor(prompt_PH)), rank)
        np.testing.assert_allclose(cut.prompt, prompt_PH, atol=1e-12)
    assert not np.allclose(cut_to_rank(SoftPrompt(prompt=torch.tensor(prompt_PH)), 2).prompt, prompt_PH)


@pytest.mark.parametrize("rank", [1, 2, 5, 11])
def test_a_cut_is_the_closest_matrix_of_its_rank(rank):
    """By Eckart and Young, the distance is the root of the sum of the squared singular values that are left out."""
    prompt_PH = random_matrix()
    cut_PH = cut_to_rank(SoftPrompt(prompt=torch.tensor(prompt_PH)), rank).prompt.numpy()
    assert np.linalg.matrix_rank(cut_PH) == rank
    left_out_values = np.linalg.svd(prompt_PH, compute_uv=False)[rank:]
    assert np.linalg.norm(prompt_PH - cut_PH) == pytest.approx(np.sqrt((left_out_values**2).sum()))


def test_a_cut_keeps_everything_else_of_a_soft_prompt():
    update = torch.ones(3, 20)
    soft_prompt = SoftPrompt(
        prompt=torch.tensor(random_matrix(), dtype=torch.float32), update=update, placement=PLACEMENTS["suffix"]
    )
    cut = cut_to_rank(soft_prompt, 2)
    assert cut.prompt.dtype == torch.float32 and cut.prompt.shape == soft_prompt.prompt.shape
    assert cut.update is update and cut.placement is PLACEMENTS["suffix"]


def test_only_ranks_below_that_of_the_prompt_are_cuts():
    assert cut_ranks(100, 576) == (1, 2, 5, 10)
    assert cut_ranks(10, 576) == (1, 2, 5)
    assert cut_ranks(100, 4) == (1, 2)
    assert cut_ranks(1, 576) == ()


def test_a_trained_prompt_that_is_cut_to_its_own_rank_predicts_the_same(trained):
    soft_prompt = trained.best_prompt().soft_prompt
    cut_prompt = cut_to_rank(soft_prompt, 12)
    predictions = predict_split(trained.backbone, cut_prompt, trained.data.test, trained.label_ids)
    np.testing.assert_array_equal(predictions.predicted, trained.predictions.predicted)
    np.testing.assert_allclose(predictions.logits, trained.predictions.logits, atol=1e-4)


def test_a_trial_is_measured(trained):
    """The reference computes everything with NumPy, from the prompt and from a new trial's initial values."""
    result = measure(trained)
    prompt_PH = trained.best_prompt().soft_prompt.prompt.double().numpy()
    left_PK, values, right_KH = np.linalg.svd(prompt_PH, full_matrices=False)
    initial_PH = Trial(trained.config).factors["X"].detach().double().numpy()
    np.testing.assert_allclose(result.singular_values, values)
    np.testing.assert_allclose(result.initial_singular_values, np.linalg.svd(initial_PH, compute_uv=False))
    assert not np.allclose(initial_PH, prompt_PH)
    assert result.key == trained.config.key and result.time_s > 0
    assert [cut.rank for cut in result.cuts] == [1, 2, 5, 10]
    for cut in result.cuts:
        cut_PH = torch.tensor(left_PK[:, : cut.rank] @ np.diag(values[: cut.rank]) @ right_KH[: cut.rank]).float()
        soft_prompt = SoftPrompt(prompt=cut_PH, placement=PLACEMENTS["suffix"])
        reference = predict_split(trained.backbone, soft_prompt, trained.data.test, trained.label_ids)
        assert (cut.test_accuracy, cut.test_n) == (reference.accuracy, len(trained.data.test))


def test_the_initial_values_are_those_of_the_start_that_counts(trained, monkeypatch):
    monkeypatch.setattr(restarts, "is_stuck", lambda *_: True)
    trial = Trial(trained.config.replace(restarts=1))
    for _ in trial:
        pass
    assert trial.abandoned_starts == 1
    other_start = trained.config.replace(seed=restarts.seed_of_start(trained.config.seed, 1))
    initial_PH = Trial(other_start).factors["X"].detach().double().numpy()
    np.testing.assert_allclose(
        measure(trial).initial_singular_values, np.linalg.svd(initial_PH, compute_uv=False), rtol=1e-6
    )


def test_prompt_tuning_alone_trains_the_whole_prompt():
    assert [method.name for method in methods.in_order() if method.trains_whole_prompt] == ["prompt_tuning"]


VALID = {
    "schema_version": 1,
    "key": "0" * 16,
    "singular_values": [2.0, 1.0, 0.5],
    "initial_singular_values": [1.0, 1.0, 0.0],
    "stable_rank": 1.3125,
    "initial_stable_rank": 2.0,
    "cuts": [{"rank": 1, "test_accuracy": 0.5, "test_n": 4}, {"rank": 2, "test_accuracy": 0.75, "test_n": 4}],
    "time_s": 0.5,
}


def test_a_file_is_read_as_it_was_written():
    low_rank = LowRank.from_dict(VALID)
    assert low_rank.to_dict() == VALID | {
        "singular_values": (2.0, 1.0, 0.5), "initial_singular_values": (1.0, 1.0, 0.0),
        "cuts": tuple(VALID["cuts"]),
    }  # fmt: skip
    assert LowRank.from_dict(low_rank.to_dict() | VALID) == low_rank
    assert dataclasses.replace(low_rank, key="1" * 16).to_dict()["key"] == "1" * 16


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema_version",), 2, "`schema_version` is 2"),
        (("schema_version",), None, "`schema_version` is None"),
        (("key",), 5, "`key`"),
        (("singular_values",), [], "`singular_values`"),
        (("singular_values",), [1.0, 2.0, 3.0], "largest first"),
        (("singular_values",), [0, 0, 0], "largest first"),
        (("singular_values",), [2.0, 1.0], "different numbers"),
        (("initial_singular_values", 1), "1", "`initial_singular_values`"),
        (("initial_singular_values", 1), float("nan"), "`initial_singular_values`"),
        (("stable_rank",), 10**400, "`stable_rank`"),
        (("initial_stable_rank",), None, "`initial_stable_rank`"),
        (("stable_rank",), 1.4, "`stable_rank` is 1.4, but"),
        (("initial_stable_rank",), 1.0, "`initial_stable_rank` is 1, but"),
        (("time_s",), True, "`time_s`"),
        (("cuts",), {}, "`cuts`"),
        (("cuts", 0), None, "`cuts`"),
        (("cuts", 0, "rank"), 0, "`rank`"),
        (("cuts", 0, "rank"), 2, "ranks of its cuts are"),
        (("cuts", 1, "rank"), 4, "ranks of its cuts are"),
        (("cuts", 0, "test_accuracy"), 1.5, "0 to 1"),
        (("cuts", 0, "test_n"), 5, "different numbers of examples"),
    ],
)
def test_damaged_content_is_refused(path, value, words):
    content = copy.deepcopy(VALID)
    parent = content
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = value
    with pytest.raises(ValueError, match=words):
        LowRank.from_dict(content)
    with pytest.raises(ValueError, match="JSON object"):
        LowRank.from_dict([content])
