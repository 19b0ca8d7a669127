"""Parameter counts, formulas and initial values of each method, compared with the papers' numbers and with NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lopt import backbones, count_parameters, load_prompt, methods
from lopt.config import TrialConfig
from lopt.methods import Shape
from lopt.training import Trial


@pytest.mark.parametrize(
    ("method", "length", "rank", "width", "expected"),
    [  # Table 1 (GPT-2 large), Table 2 (T5-base)
        ("prompt_tuning", 10, None, 1280, 12_800),
        ("lopt1", 10, 2, 1280, 2_580),
        ("lopt2", 10, 2, 1280, 5_120),
        ("lopt1", 20, 5, 768, 3_940),
        ("lopt2", 20, 5, 768, 7_680),
        ("prompt_tuning", 100, None, 768, 76_800),
        # DePT's four splits of one budget, s = 256
        ("dept", 80, 15, 768, 76_800),
        ("dept", 60, 30, 768, 76_800),
        ("dept", 40, 45, 768, 76_800),
        ("dept", 20, 60, 768, 76_800),
        # ULPT at n = 100; the paper gives 27.1K, 7.9K, 3.1K and 1.7K
        ("ulpt", 100, 256, 768, 27_136),
        ("ulpt", 100, 64, 768, 7_936),
        ("ulpt", 100, 16, 768, 3_136),
        ("ulpt", 100, 2, 768, 1_736),
        ("lopt1", 100, 5, 768, 4_340),
    ],
)
def test_counts_equal_those_of_the_papers_tables(method, length, rank, width, expected):
    assert count_parameters(method=method, length=length, rank=rank, width=width) == expected


@pytest.mark.parametrize(
    ("method", "rank", "backbone", "expected"),
    [
        ("lora", 32, "t5-base", 3_538_944),  # q and v of 36 attentions, each 32 (768 + 768)
        ("lora", 8, "gpt2-large", 36 * 8 * (1280 + 3 * 1280)),  # the fused q, k, v of 36 layers
        ("lora", 4, "embedded", 30 * 4 * ((576 + 576) + (576 + 192))),  # v of three key-value heads
        ("fine_tuning", None, "t5-base", 222_903_552),
        ("fine_tuning", None, "gpt2-large", 774_030_080),
    ],
)
def test_counts_of_methods_that_change_weights(method, rank, backbone, expected):
    assert count_parameters(method=method, rank=rank, backbone=backbone) == expected


def test_prompts_are_counted_at_the_width_of_a_named_backbone():
    assert count_parameters(method="lopt1", length=10, rank=2, backbone="gpt2-large") == 2_580
    assert count_parameters(method="dept", length=40, rank=45, backbone="t5-base") == 76_800
    assert count_parameters(method="dept", length=40, rank=45, width=768, update_tokens=100) == 40 * 768 + 45 * 868
    with pytest.raises(ValueError, match=r"give `width` .the embedding width d. or `backbone`"):
        count_parameters(method="lopt1", length=10, rank=2)


@pytest.mark.parametrize(
    ("length", "rank", "delta_percent"),
    [
        (10, 1, -89.92), (10, 2, -79.84), (10, 5, -49.61),
        (20, 1, -89.84), (20, 2, -79.69), (20, 5, -49.22),
        (30, 1, -89.77), (30, 2, -79.53), (30, 5, -48.83),
    ],
)  # fmt: skip
def test_all_nine_deltas_of_table_3(length, rank, delta_percent):
    count = count_parameters(method="lopt1", length=length, rank=rank, width=1280)
    assert 100 * (count / 12_800 - 1) == pytest.approx(delta_percent, abs=0.005)


@pytest.mark.parametrize(
    "values",
    [
        {"length": 10, "rank": 0, "width": 8},
        {"length": 10, "rank": 11, "width": 8},
        {"length": 0, "rank": 1, "width": 8},
        {"length": 10, "rank": 1, "width": -8},
        {"length": 10, "width": 8},
        {"length": 10, "rank": 1, "width": 8, "rnk": 2},
        {"length": 10, "rank": True, "width": 8},
        {"length": 10, "rank": 1.0, "width": 8},
        {"rank": 1, "width": 8},
    ],
)
def test_wrong_shapes_are_refused(values):
    with pytest.raises(ValueError, match=r"rank|length|width|rnk"):
        count_parameters(method="lopt1", **values)


def tensors_of(values):
    return {name: torch.tensor(value) for name, value in values.items()}


def _factors(method, length, rank, width):
    """Return the initial values of a method's factors with seed 7, and all its options."""
    options = method.check(length=length, rank=rank, options={})
    shape = Shape(length=length, rank=rank, width=width, options=options)
    return method.initial_values(shape, 7), options


def test_lopt1_is_the_product_of_its_factors():
    method = methods.get("lopt1")
    values, options = _factors(method, 6, 2, 24)
    by_hand = np.array(
        [[sum(values["U"][i, k] * values["V"][k, j] for k in range(2)) for j in range(24)] for i in range(6)]
    )
    prompt = method.prompt(tensors_of(values), options)
    np.testing.assert_allclose(prompt.numpy(), by_hand, rtol=0, atol=1e-14)
    assert np.linalg.matrix_rank(by_hand) == 2


def test_lopt2_is_elu_of_one_projection_times_another():
    method = methods.get("lopt2")
    values, options = _factors(method, 6, 2, 24)
    hidden = values["X0"] @ values["U"]
    by_hand = np.where(hidden > 0, hidden, np.exp(hidden) - 1) @ values["V"]
    prompt = method.prompt(tensors_of(values), options)
    assert (hidden < 0).any()
    assert (hidden > 0).any()
    np.testing.assert_allclose(prompt.numpy(), by_hand, rtol=0, atol=1e-14)


FROZEN = [("lopt2", "X0", "x0_seed"), ("ulpt", "P", "projection_seed")]


@pytest.mark.parametrize(("name", "factor", "option"), FROZEN)
def test_frozen_factors_are_drawn_from_the_trials_seed_unless_an_option_gives_another(name, factor, option):
    method = methods.get(name)

    def values(seed, **options):
        filled = method.check(length=6, rank=2, options=options)
        return method.initial_values(Shape(length=6, rank=2, width=24, options=filled), seed)

    assert not np.array_equal(values(1)[factor], values(2)[factor])
    assert np.array_equal(values(1, **{option: 7})[factor], values(2, **{option: 7})[factor])
    assert np.array_equal(values(7)[factor], values(1, **{option: 7})[factor]), "one seed gives one stream"
    for trained in values(1).keys() - {factor}:
        assert np.array_equal(values(1)[trained], values(1, **{option: 7})[trained])


@pytest.mark.parametrize(("name", "factor", "option"), FROZEN)
def test_an_older_prompt_keeps_its_frozen_matrix(name, factor, option, tmp_path):
    """Its configuration has seed 0, which was the default: one matrix for all trials."""
    shape = {"length": 4, "rank": 2, "learning_rate": 0.1}
    quick = {"batch_size": 8, "max_steps": 2, "eval_every": 1, "precision": "fp32"}
    config = TrialConfig(method=name, task="toy", backbone="tiny", seed=3, options={option: 0}, **shape, **quick)
    trial = Trial(config)
    for _ in trial:
        pass
    record = trial.finish(artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    assert prompt.config.options[option] == 0
    assert prompt.evaluate().accuracy == record.test_accuracy
    frozen_factors = {
        seed: methods.get(name).frozen_factors(config.replace(seed=seed), 32, dtype=torch.float64)[factor]
        for seed in (3, 4)
    }
    assert torch.equal(frozen_factors[3], frozen_factors[4])


def test_initial_values_come_from_numpys_frozen_streams():
    """If these bits ever changed, X0 of stored LoPT-2 prompts could not be drawn again."""
    values, _ = _factors(methods.get("lopt2"), 3, 1, 4)
    np.testing.assert_allclose(values["X0"][0], np.random.RandomState([7, 2, 0]).uniform(-0.5, 0.5, 4), rtol=0)


def test_the_rank_may_be_above_the_length_where_it_is_not_the_rank_of_x():
    for method, expected in (("dept", 2 * 8 + 5 * (256 + 8)), ("ulpt", 2 * 5 + 2 * 8)):
        assert count_parameters(method=method, length=2, rank=5, width=8) == expected
    for method in ("lopt1", "lopt2"):
        with pytest.raises(ValueError, match="rank is 5 at length 2; give 1 to 2"):
            count_parameters(method=method, length=2, rank=5, width=8)


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("lopt1", "init_bound", 0),
        ("lopt2", "activation", "tanh"),
        ("lopt2", "x0_seed", -1),
        ("lopt2", "u_bound", -0.1),
        ("prompt_tuning", "init", "random"),
        ("prompt_tuning", "init_bound", float("nan")),
        ("dept", "update_tokens", 0),
        ("dept", "update_learning_rate", 0),
        ("dept", "alpha", True),
        ("dept", "init", None),
        ("ulpt", "projection_seed", 1.5),
        ("lora", "alpha", float("inf")),
    ],
)
def test_wrong_options_are_refused_in_one_line(method, option, value):
    spec = methods.get(method)
    length, rank = (4 if spec.uses_length else None), (2 if spec.uses_rank else None)
    with pytest.raises(ValueError, match=f"{option} is .*(give|valid)") as error:
        spec.check(length=length, rank=rank, options={option: value})
    assert "\n" not in str(error.value)


# --- formulas --------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_lopt2(activation):
    method = methods.get("lopt2")
    options = method.check(length=6, rank=2, options={"activation": activation})
    values = method.initial_values(Shape(length=6, rank=2, width=24, options=options), 7)
    by_hand = ACTIVATIONS[activation](values["X0"] @ values["U"]) @ values["V"]
    prompt = method.prompt(tensors_of(values), options)
    np.testing.assert_allclose(prompt.numpy(), by_hand, rtol=0, atol=1e-14)
    elu = method.prompt(tensors_of(values), {**options, "activation": "elu"})
    assert torch.equal(prompt, elu) == (activation == "elu")


def test_dept_is_a_prompt_and_a_scaled_product_added_to_the_text():
    method = methods.get("dept")
    draw = np.random.RandomState(0)
    values = {"P": draw.randn(3, 8), "A": draw.randn(5, 4), "B": draw.randn(4, 8)}
    tensors = tensors_of(values)
    for alpha, scale in ((8.0, 4.0), (3.0, 1.5)):  # alpha / sqrt(r)
        options = method.check(length=3, rank=4, options={"alpha": alpha, "update_tokens": 5})
        soft_prompt = method.soft_prompt(tensors, options)
        assert torch.equal(soft_prompt.prompt, tensors["P"])
        np.testing.assert_allclose(soft_prompt.update.numpy(), scale * values["A"] @ values["B"], rtol=0, atol=1e-13)


def test_ulpt_is_a_scaled_and_shifted_projection():
    method = methods.get("ulpt")
    draw = np.random.RandomState(0)
    values = {"Z": draw.randn(3, 2), "s": draw.randn(8), "b": draw.randn(8), "P": draw.randn(2, 8)}
    soft_prompt = method.soft_prompt(tensors_of(values), method.check(length=3, rank=2, options={}))
    by_hand = (values["Z"] @ values["P"]) @ np.diag(values["s"]) + np.ones((3, 1)) * values["b"]
    np.testing.assert_allclose(soft_prompt.prompt.numpy(), by_hand, rtol=0, atol=1e-14)
    assert soft_prompt.update is None


# --- initial values --------------------------------------------------------------------------------------------


def _initial_values(name, length, rank, width=48, seed=3, label_words=(" bad", " great"), **options):
    method = methods.get(name)
    filled = method.check(length=length, rank=rank, options=options)
    shape = Shape(length=length, rank=rank, width=width, options=filled)
    return method.initial_values(shape, seed, backbones.load("tiny", "fp32").vocabulary(label_words))


def _stream(seed, position, *, trainable=True):
    """Return the random stream of the factor at a position."""
    return np.random.RandomState([seed, position, int(trainable)])


def test_initial_values_are_the_papers_distributions_from_their_own_streams():
    values = _initial_values("prompt_tuning", 40, None)
    np.testing.assert_array_equal(values["X"], _stream(3, 0).uniform(-0.5, 0.5, (40, 48)))
    values = _initial_values("lopt1", 40, 5, init_bound=0.25)
    np.testing.assert_array_equal(values["U"], _stream(3, 0).uniform(-0.25, 0.25, (40, 5)))
    np.testing.assert_array_equal(values["V"], _stream(3, 1).uniform(-0.25, 0.25, (5, 48)))
    values = _initial_values("lopt2", 40, 5, x0_seed=11, x0_bound=2.0)
    np.testing.assert_array_equal(values["U"], _stream(3, 0).uniform(-(48**-0.5), 48**-0.5, (48, 5)))
    np.testing.assert_array_equal(values["V"], _stream(3, 1).uniform(-0.5, 0.5, (5, 48)))
    np.testing.assert_array_equal(values["X0"], _stream(11, 2, trainable=False).uniform(-2.0, 2.0, (40, 48)))
    np.testing.assert_array_equal(
        _initial_values("lopt2", 40, 5, u_bound=0.3)["U"], _stream(3, 0).uniform(-0.3, 0.3, (48, 5))
    )
    values = _initial_values("dept", 40, 16, init="uniform", init_bound=0.1)
    np.testing.assert_array_equal(values["P"], _stream(3, 0).uniform(-0.1, 0.1, (40, 48)))
    np.testing.assert_array_equal(values["A"], _stream(3, 1).uniform(-0.25, 0.25, (256, 16)))  # 1/sqrt(r)
    np.testing.assert_array_equal(values["B"], np.zeros((16, 48)))
    values = _initial_values("ulpt", 40, 6, projection_seed=11)
    np.testing.assert_array_equal(values["Z"], _stream(3, 0).normal(0, 1, (40, 6)))
    np.testing.assert_array_equal(values["s"], np.ones(48))
    np.testing.assert_array_equal(values["b"], np.zeros(48))
    bound = math.sqrt(6 / (6 + 48))
    np.testing.assert_array_equal(values["P"], _stream(11, 3, trainable=False).uniform(-bound, bound, (6, 48)))


def test_kaiming_and_xavier_are_pytorchs_bounds():
    torch.manual_seed(0)
    kaiming = torch.nn.init.kaiming_uniform_(torch.empty(4000, 16), a=math.sqrt(5)).abs().max()
    xavier = torch.nn.init.xavier_uniform_(torch.empty(6, 8000)).abs().max()
    assert np.abs(_initial_values("dept", 1, 16, update_tokens=4000)["A"]).max() == pytest.approx(
        float(kaiming), rel=1e-3
    )
    assert np.abs(_initial_values("ulpt", 1, 6, width=8000)["P"]).max() == pytest.approx(float(xavier), rel=1e-3)


def _tiny_embeddings():
    backbone = backbones.load("tiny", "fp32")
    return backbone, backbone.model.get_input_embeddings().weight.detach().double().numpy()


def _token_of(row, weight_VH):
    (token,) = np.flatnonzero((weight_VH == row).all(axis=1))
    return int(token)


@pytest.mark.parametrize(("name", "factor", "rank"), [("prompt_tuning", "X", None), ("dept", "P", 2)])
def test_vocabulary_rows_are_rows_of_the_embedding(name, factor, rank):
    backbone, weight_VH = _tiny_embeddings()
    tokens = {}
    for seed in (0, 1):
        rows = _initial_values(name, 30, rank, width=32, seed=seed, init="vocabulary")[factor]
        tokens[seed] = [_token_of(row, weight_VH) for row in rows]
        assert len(set(tokens[seed])) == 30, "no token is drawn twice"
        assert not set(tokens[seed]) & set(backbone.tokenizer.all_special_ids)
    assert tokens[0] != tokens[1]
    rows = _initial_values(name, 400, rank, width=32, init="vocabulary")[factor]  # more rows than there are tokens
    assert {_token_of(row, weight_VH) for row in rows} <= set(range(1, len(weight_VH)))


def test_ordinary_ids_are_the_first_ids_that_are_not_special():
    backbone, _ = _tiny_embeddings()
    vocabulary = backbone.vocabulary(())
    assert backbone.tokenizer.all_special_ids == [0]
    assert vocabulary.ordinary_token_ids(10).tolist() == list(range(1, 11))
    assert vocabulary.ordinary_token_ids(10**6).tolist() == list(range(1, len(backbone.tokenizer)))


@pytest.mark.parametrize(("name", "factor", "rank"), [("prompt_tuning", "X", None), ("dept", "P", 2)])
def test_with_label_words_the_first_rows_are_the_means_of_their_tokens(name, factor, rank):
    backbone, weight_VH = _tiny_embeddings()
    words = (" bad", "fine", " great")  # one, four and one token of the tiny tokenizer
    ids = [backbone.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert [len(word_ids) for word_ids in ids] == [1, 4, 1]
    expected = np.stack([weight_VH[word_ids].mean(axis=0) for word_ids in ids])
    rows = _initial_values(name, 7, rank, width=32, init="label_words", label_words=words)[factor]
    np.testing.assert_allclose(rows[:3], expected, rtol=0, atol=1e-15)
    drawn = _initial_values(name, 7, rank, width=32, init="vocabulary")[factor]
    np.testing.assert_array_equal(rows[3:], drawn[3:])
    short = _initial_values(name, 2, rank, width=32, init="label_words", label_words=words)[factor]
    np.testing.assert_allclose(short, expected[:2], rtol=0, atol=1e-15)


def test_a_trial_begins_at_the_rows_of_its_own_label_words(tiny):
    _, weight_VH = _tiny_embeddings()
    changes = {"method": "prompt_tuning", "rank": None, "label_words": (" great", " bad")}
    trial = Trial(tiny.replace(**changes, options={"init": "label_words"}))
    ids = [trial.backbone.tokenizer(word)["input_ids"][0] for word in (" great", " bad")]
    np.testing.assert_allclose(trial.factors["X"][:2].detach().numpy(), weight_VH[ids], rtol=0, atol=1e-7)
