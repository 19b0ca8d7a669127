"""Packed trials against the same trials alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lopt.config import TrialConfig
from lopt.engine import Engine
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial

TOLERANCE = 1e-9
MIXED = (
    {"method": "prompt_tuning", "length": 4, "learning_rate": 0.1, "batch_size": 8, "eval_every": 25, "seed": 1},
    {"method": "lopt1", "length": 6, "rank": 2, "learning_rate": 0.2, "batch_size": 4, "eval_every": 10, "seed": 2},
    {"method": "lopt2", "length": 6, "rank": 1, "learning_rate": 0.03, "batch_size": 6, "eval_every": 50, "seed": 3},
    {"method": "dept", "length": 3, "rank": 4, "learning_rate": 0.05, "batch_size": 5, "eval_every": 20, "seed": 4},
    {"method": "ulpt", "length": 5, "rank": 4, "learning_rate": 0.1, "batch_size": 8, "eval_every": 25, "seed": 5},
    {"method": "lopt1", "length": 4, "rank": 3, "learning_rate": 0.1, "batch_size": 8, "eval_every": 25, "seed": 6,
     "options": {"placement": "suffix"}},
)  # fmt: skip


def begin(backbone, changes, steps=50, precision="fp64", **more):
    config = TrialConfig(
        task="toy", backbone=str(backbone), max_steps=steps, precision=precision, selection_examples=12, max_tokens=32,
        **{**changes, **more},
    )  # fmt: skip
    return Trial(config, phase="search")


def alone(trial):
    for _ in trial:
        pass
    return trial


def assert_equal(packed, reference, tolerance=TOLERANCE):
    assert packed.step == reference.step
    assert packed.tokens == reference.tokens
    assert [e.step for e in packed.evaluations] == [e.step for e in reference.evaluations]
    for ours, theirs in zip(packed.evaluations, reference.evaluations, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, abs=tolerance)
        assert ours.selection_loss == pytest.approx(theirs.selection_loss, abs=tolerance)
        assert ours.selection_accuracy == theirs.selection_accuracy
    torch.testing.assert_close(
        packed.best_prompt().prompt_PH, reference.best_prompt().prompt_PH, rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_packed_trials_equal_trials_alone(folders, family):
    """Mixed methods, lengths, ranks, rates, batch sizes, placements; entering at different steps, one leaving early."""
    references = [alone(begin(folders[family], changes)) for changes in MIXED[:-1]]
    stopped = begin(folders[family], MIXED[-1])
    next(iter(stopped))
    trials = [begin(folders[family], changes) for changes in MIXED]
    engine, waiting, seen = Engine(most_tokens=700), trials[2:], []
    engine.admit(trials[0])
    engine.admit(trials[1])
    for trial, evaluation in engine:
        seen.append((trials.index(trial), evaluation.step))
        if trial is trials[-1] and evaluation.step == 25:
            engine.evict(trial)
        if waiting:
            engine.admit(waiting.pop(0))
    assert not engine.trials
    assert len({step for _, step in seen}) > 3
    for packed, reference in zip(trials, [*references, stopped], strict=True):
        assert_equal(packed, reference)


def test_t5_at_equal_padded_shape(folders, monkeypatch, fp64_norms):
    """T5's attention sees the padding's shape in the order of its sums, so all rows are brought to one length here."""
    import lopt.engine
    from lopt import batches, training

    def padded(original):
        def collate(encoded, positions, pad_id):
            ids_BT, lengths_B, labels_B = original(encoded, positions, pad_id)
            return torch.nn.functional.pad(ids_BT, (0, 40 - ids_BT.shape[1]), value=pad_id), lengths_B, labels_B

        return collate

    monkeypatch.setattr(training, "collate", padded(batches.collate))
    same = [{**changes, "length": 5, "options": {}} for changes in MIXED if changes["method"] != "dept"]
    references = [begin(folders["t5"], changes, steps=20) for changes in same]
    for reference in references:
        for _ in range(20):
            reference.update()
    original = lopt.engine.Engine._logits

    def logits(self, trials, soft_prompts, rows):
        longest = lopt.engine.Row(rows[0].owner, (0,) * 40, 0)  # one more row sets the padded length
        found, columns = original(self, trials, soft_prompts, [*rows, longest])
        return found[: len(rows)], columns

    monkeypatch.setattr(lopt.engine.Engine, "_logits", logits)
    trials = [begin(folders["t5"], changes, steps=20) for changes in same]
    engine = Engine()
    for trial in trials:
        engine.admit(trial)
    for _ in range(20):
        engine.step()
    for packed, reference in zip(trials, references, strict=True):
        for name, factor in packed.factors.items():
            torch.testing.assert_close(factor, reference.factors[name], rtol=0, atol=TOLERANCE)


def test_first_gradients_of_t5_at_any_padding(folders):
    for changes in MIXED:
        trial, reference = begin(folders["t5"], changes), begin(folders["t5"], changes)
        reference.update()
        engine = Engine()
        engine.admit(trial)
        engine.admit(begin(folders["t5"], MIXED[1]))
        engine.step()
        for name, factor in trial.factors.items():
            assert factor.grad.abs().max() > 0 or name == "A"  # DePT's B begins at zero
            torch.testing.assert_close(factor.grad, reference.factors[name].grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_passes_side_by_side_equal_passes_one_after_the_other(placement):
    """To rounding, for passes are cut otherwise; and in any order of arrival with the same bits."""

    def trained(lanes):
        changes = [{**c, "options": {"placement": placement}} for c in MIXED[:3]]
        trials = [begin("tiny", each, steps=10, precision="fp32") for each in changes]
        assert trials[0].backbone.side_by_side
        engine = Engine(most_tokens=150, lanes=lanes)
        for trial in trials:
            engine.admit(trial)
        for _, outcome in engine:
            assert not isinstance(outcome, Exception)
        return [factor for trial in trials for factor in trial.factors.values()]

    one, *others = trained(1), trained(2), trained(2), trained(3)
    for other in others:
        for ours, theirs in zip(other, one, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(others[0], others[1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("fails", [False, True])
def test_texts_are_computed_by_all_lanes_before_the_passes(monkeypatch, fails):
    """Where that raises, the passes compute them."""
    changes = [{**c, "options": {"placement": "suffix"}} for c in MIXED[:3]]
    trials = [begin("tiny", each, steps=10, precision="fp32") for each in changes]
    kept, read = trials[0].backbone.flat.texts, []
    kept._kept.clear()  # other tests' trials of this process
    kept.used_bytes, before = 0, kept.computed

    original = type(trials[0].backbone).read

    def noted(self, texts):
        read.extend(texts)
        if fails:
            raise MemoryError("of reading")
        original(self, texts)

    monkeypatch.setattr(type(trials[0].backbone), "read", noted)
    engine = Engine(lanes=2)
    for trial in trials:
        engine.admit(trial)
    wanted = {trial.data.train.token_ids[p] for trial in trials for p in next(begin_again(trial))}
    assert not engine.step()
    assert set(read) <= wanted
    assert fails or set(read) == wanted
    assert kept.computed - before >= len(wanted)
    assert fails or kept.computed - before == len(wanted)


def begin_again(trial):
    from lopt.batches import training_batches

    return training_batches(trial.data.train.lengths, trial.config.batch_size, trial.config.seed)


def test_a_prompt_is_computed_in_as_few_passes_as_can_be(monkeypatch):
    """A pass without padding takes whole trials, so that only those at its ends meet another pass."""
    trials = [begin("tiny", {**MIXED[0], "length": n, "seed": n % 3}, precision="fp32") for n in (9, 3, 9, 6, 3)]
    engine, seen = Engine(most_tokens=150, lanes=1), []
    for trial in trials:
        engine.admit(trial)
    original = type(trials[0].backbone).label_logits

    def counted(self, soft_prompt, *rest):
        seen.append([prompt.length for prompt in soft_prompt.prompts])
        return original(self, soft_prompt, *rest)

    monkeypatch.setattr(type(trials[0].backbone), "label_logits", counted)
    assert not engine.step()
    assert len(seen) > 2
    assert sum(len(lengths) for lengths in seen) <= len(trials) + len(seen) - 1
    assert sum(len(set(lengths)) for lengths in seen) <= 3 + len(seen) - 1


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("not enough memory")]
)
def test_when_memory_runs_out_the_pass_is_split_and_the_size_that_fits_is_kept(folders, monkeypatch, error):
    references = [alone(begin(folders["gpt2"], changes, steps=10)) for changes in MIXED[:3]]
    trials = [begin(folders["gpt2"], changes, steps=10) for changes in MIXED[:3]]
    backbone, refused = trials[0].backbone, []
    original = type(backbone).label_logits

    def limited(self, soft_prompt, ids_BT, lengths_B, label_ids_C):
        if ids_BT.numel() > 150:
            refused.append(ids_BT.numel())
            raise error
        return original(self, soft_prompt, ids_BT, lengths_B, label_ids_C)

    monkeypatch.setattr(type(backbone), "label_logits", limited)
    engine = Engine()
    for trial in trials:
        engine.admit(trial)
    for _ in engine:
        pass
    assert 0 < len(refused) < 10, "the smaller size is remembered"
    assert engine.most_tokens < 4096
    for packed, reference in zip(trials, references, strict=True):
        assert_equal(packed, reference)


def test_another_error_is_not_taken_for_want_of_memory_and_fails_the_trials_of_its_pass(folders, monkeypatch):
    reference = alone(begin(folders["gpt2"], MIXED[2], steps=10))
    trials = [begin(folders["gpt2"], changes, steps=10) for changes in (MIXED[0], MIXED[0], MIXED[2])]
    original = type(trials[0].backbone).label_logits

    def broken(self, soft_prompt, *arguments):
        if soft_prompt.prompts[0].length == MIXED[0]["length"] and trials[2].step >= 2:
            raise ZeroDivisionError
        return original(self, soft_prompt, *arguments)

    monkeypatch.setattr(type(trials[0].backbone), "label_logits", broken)
    engine = Engine(most_tokens=20)  # a pass for each row
    for trial in trials:
        engine.admit(trial)
    outcomes = list(engine)
    assert [t for t, outcome in outcomes if isinstance(outcome, ZeroDivisionError)] == trials[:2]
    assert engine.most_tokens == 20
    assert [t.step for t in trials] == [2, 2, 10]
    assert_equal(trials[2], reference)


@pytest.mark.parametrize("part", ["draw", "soft_prompt", "apply_gradients", "evaluation_due", "record_evaluation"])
def test_what_one_trial_raises_fails_that_trial_alone(folders, monkeypatch, part):
    reference = alone(begin(folders["gpt2"], MIXED[0]))
    sick, well = begin(folders["gpt2"], MIXED[1]), begin(folders["gpt2"], MIXED[0])
    honest = getattr(sick, part)

    def broken(*arguments):
        if sick.step >= 10:
            raise ArithmeticError("on purpose")
        return honest(*arguments)

    monkeypatch.setattr(sick, part, broken)
    engine = Engine()
    engine.admit(sick)
    engine.admit(well)
    outcomes = list(engine)
    failures = [(trial, str(outcome)) for trial, outcome in outcomes if isinstance(outcome, Exception)]
    assert failures == [(sick, "on purpose")]
    assert sick.failed(ArithmeticError()).steps == sick.step
    assert_equal(well, reference)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_trial_that_diverges_touches_no_other(folders, value):
    reference = alone(begin(folders["gpt2"], MIXED[0]))
    sick, well = begin(folders["gpt2"], MIXED[1]), begin(folders["gpt2"], MIXED[0])
    engine = Engine()
    engine.admit(sick)
    engine.admit(well)
    with torch.no_grad():
        sick.factors["U"][0, 0] = value
    outcomes = [(trial, evaluation) for trial, evaluation in engine]
    assert [evaluation for trial, evaluation in outcomes if trial is sick] == [None]
    assert sick.diverged
    assert sick.finish().status == "diverged"
    assert_equal(well, reference)


def test_a_prompt_that_gives_logits_which_are_not_finite_at_evaluation_diverges_too(folders, monkeypatch):
    trial = begin(folders["gpt2"], MIXED[0], steps=25)
    engine = Engine()
    engine.admit(trial)
    record_evaluation = Trial.record_evaluation

    def spoilt(self, found):
        return record_evaluation(self, type(found)(found.example_ids, found.gold, np.full_like(found.logits, np.nan)))

    monkeypatch.setattr(Trial, "record_evaluation", spoilt)
    assert [evaluation for _, evaluation in engine] == [None]
    assert trial.diverged


def test_trials_of_other_tasks_and_label_words_share_a_pass(folders):
    words = {"label_words": (" yes", " no"), "template": "{text} So"}
    changes = [MIXED[0], {**MIXED[1], **words}]
    references = [alone(begin(folders["gpt2"], each, steps=20)) for each in changes]
    trials = [begin(folders["gpt2"], each, steps=20) for each in changes]
    engine = Engine()
    for trial in trials:
        engine.admit(trial)
    for _ in engine:
        pass
    for packed, reference in zip(trials, references, strict=True):
        assert_equal(packed, reference)


def test_who_cannot_share_is_refused(folders):
    engine = Engine()
    with pytest.raises(ValueError, match="fine_tuning changes the model's weights"):
        engine.admit(begin("tiny", {"method": "fine_tuning", "learning_rate": 0.1}, precision="fp32"))
    engine.admit(begin(folders["gpt2"], MIXED[0]))
    with pytest.raises(ValueError, match=r"this engine runs on .*gpt2"):
        engine.admit(begin(folders["llama"], MIXED[0]))


def test_a_packed_trial_is_confirmed_like_any_other(folders, tmp_path):
    """The score on the reported split comes from the saved artifact, alone."""
    config = begin(folders["gpt2"], MIXED[1], steps=10).config
    trial, other = Trial(config), Trial(config.replace(seed=9))
    engine = Engine()
    engine.admit(trial)
    engine.admit(other)
    for _ in engine:
        pass
    record = trial.finish(artifact=tmp_path / "one")
    from lopt import load_prompt

    assert record.status == "complete"
    assert load_prompt(tmp_path / "one").evaluate().accuracy == record.test_accuracy
    assert isinstance(trial.soft_prompt(), SoftPrompt)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", MIXED, ids=lambda changes: "-".join([changes["method"], *changes.get("options", {}).values()])
)
def test_first_gradients_on_the_embedded_backbone(changes):
    """fp32, real weights and texts: packed trials against transformers' own forward pass in fp64.

    In fp32 transformers' own gradient lies up to 1.4e-4 from the one in fp64 for a few batches, so two right answers
    in fp32 can differ by more than 1e-4: the bar is for the median batch, and a wider one holds for every batch.
    """
    changes = {
        **changes, "task": "movie_snippets", "train_examples": 64, "selection_examples": 8, "test_examples": 8,
        "batch_size": 4, "max_steps": 2, "eval_every": 2,
    }  # fmt: skip

    def trial(seed, precision):
        return Trial(TrialConfig(**{**changes, "seed": seed, "precision": precision}), phase="search")

    errors = []
    for seed in (1, 2, 3):
        reference = trial(seed, "fp64")
        reference.backbone.flat, flat = None, reference.backbone.flat
        try:
            reference.loss(reference.draw()).backward()
        finally:
            reference.backbone.flat = flat
        packed, other = trial(seed, "fp32"), trial(seed + 10, "fp32")
        engine = Engine()
        engine.admit(packed)
        engine.admit(other)
        packed.apply_gradients = lambda loss: None
        engine.step()
        wanted = {name: factor.grad for name, factor in reference.factors.items()}
        assert any(gradient.norm() > 0 for gradient in wanted.values())
        errors.append(
            max(
                float((packed.factors[name].grad - gradient).norm() / gradient.norm().clamp(min=1e-9))
                for name, gradient in wanted.items()
            )
        )
    assert sorted(errors)[1] <= 1e-4
    assert max(errors) <= 1e-3
