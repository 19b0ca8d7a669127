"""The training loop of one trial, its record, and the evaluation of its prompt."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch

from lopt import evaluation, load_prompt, train
from lopt.batches import evaluation_batches
from lopt.evaluation import measure_baselines
from lopt.failure import failed_record
from lopt.metrics import Predictions
from lopt.migrations import SCHEMA_VERSION
from lopt.records import TrialRecord
from lopt.resolve import default_precision, resolve
from lopt.training import Trial


def test_a_trial_is_evaluated_at_every_interval_and_at_the_end(tiny):
    record = train(tiny.replace(max_steps=7))
    assert [evaluation.step for evaluation in record.evaluations] == [3, 6, 7]
    assert record.status == "complete"
    assert record.steps == 7
    assert record.tokens > 7 * 8 * tiny.length


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 1), ("macro_f1", 2)])
def test_the_metric_decides_which_step_is_the_best(tiny, metric, best):
    """Nine of ten examples are of one class. Always predicting it gives the better accuracy and the worse macro-F1."""
    trial, gold = Trial(tiny.replace(metric=metric), phase="search"), np.array([0] * 9 + [1])
    always_majority, mostly_majority = np.zeros(10, int), np.array([0] * 6 + [1] * 4)
    for step, predicted in enumerate((always_majority, mostly_majority, always_majority), start=1):
        trial.step = step
        trial.record_evaluation(Predictions(np.arange(10), gold, np.eye(2)[predicted]))
    record = trial.finish()
    scores = {1: (0.9, (18 / 19 + 0) / 2), 2: (0.7, (12 / 15 + 2 / 5) / 2)}
    assert record.selection_step == best
    assert record.selection_accuracy == pytest.approx(scores[best][0])
    assert record.selection_score == pytest.approx(scores[best][metric == "macro_f1"])
    row = record.to_row()
    assert (row["metric"], row["selection_score"]) == (metric, record.selection_score)


def test_a_trial_whose_loop_is_left_early_is_stopped(tiny):
    trial = Trial(tiny, phase="search")
    for _ in trial:
        break
    record = trial.finish(cell="c", stratum="s")
    assert (record.status, record.steps, record.cell, record.stratum) == ("stopped", 3, "c", "s")
    assert record.test_accuracy is None


def test_the_search_phase_never_sees_the_reported_split(tiny):
    trial = Trial(tiny, phase="search")
    for _ in trial:
        pass
    record = trial.finish()
    assert record.status == "complete"
    assert (record.test_accuracy, record.test_n) == (None, None)
    assert trial.predictions is None


def test_the_best_prompt_is_kept_not_the_last(tiny):
    trial = Trial(tiny.replace(max_steps=30, eval_every=1, learning_rate=0.5))
    prompts = [trial.best_prompt().prompt_PH]
    for _ in trial:
        with torch.no_grad():
            prompts.append(trial.soft_prompt().prompt.clone())
    scores = [(evaluation.selection_accuracy, -evaluation.selection_loss) for evaluation in trial.evaluations]
    best = 1 + scores.index(max(scores))
    record = trial.finish()
    assert record.selection_step == best
    assert record.selection_accuracy == max(evaluation.selection_accuracy for evaluation in trial.evaluations)
    torch.testing.assert_close(trial.best_prompt().prompt_PH, prompts[best])
    assert best < 30, "choose a rate at which the last prompt is not the best"


@pytest.mark.parametrize(("factor", "expected"), [(19.0, "complete"), (21.0, "diverged")])
def test_a_trial_whose_loss_explodes_has_diverged(tiny, monkeypatch, factor, expected):
    """The loss is compared with that of the first evaluation, which here is larger than the loss of guessing."""
    trial = Trial(tiny.replace(max_steps=9))
    real_loss = trial.loss
    first_loss = 2.0  # nats, more than ln 2
    monkeypatch.setattr(
        trial, "loss", lambda positions: real_loss(positions) * 0 + first_loss * (factor if 3 <= trial.step < 6 else 1)
    )
    for _ in trial:
        pass
    assert trial.finish().status == expected


def test_a_batch_that_does_not_fit_is_computed_in_parts_with_the_same_gradient(tiny, monkeypatch):
    whole_trial, divided_trial = (Trial(tiny.replace(precision="fp64", max_steps=6)) for _ in range(2))
    real_loss, sizes = divided_trial.loss, []

    def loss(positions):
        if len(positions) > 3:
            raise MemoryError("too many rows")
        sizes.append(len(positions))
        return real_loss(positions)

    monkeypatch.setattr(divided_trial, "loss", loss)
    for _ in range(2):
        torch.testing.assert_close(divided_trial.update(), whole_trial.update(), rtol=0, atol=1e-12)
    assert sizes == [2] * 8, "the size that fits is kept"
    for name, factor in whole_trial.factors.items():
        torch.testing.assert_close(divided_trial.factors[name], factor, rtol=0, atol=1e-12)
    monkeypatch.setattr(divided_trial, "loss", lambda positions: (_ for _ in ()).throw(MemoryError("not even one")))
    with pytest.raises(MemoryError, match="not even one"):
        divided_trial.update()


def test_every_evaluation_shows_whether_a_prediction_has_changed(tiny):
    learning_record = train(tiny.replace(max_steps=30, learning_rate=0.5))
    constant_record = train(tiny.replace(max_steps=30, learning_rate=1e-12))
    assert len({evaluation.predictions for evaluation in learning_record.evaluations}) > 1
    assert len({evaluation.predictions for evaluation in constant_record.evaluations}) == 1


def test_a_trial_whose_loss_is_not_a_number_has_diverged_and_keeps_its_earlier_evaluation(tiny, monkeypatch):
    trial = Trial(tiny.replace(max_steps=9))
    real_loss, calls = trial.loss, []

    def loss(positions):
        calls.append(positions)
        return real_loss(positions) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(trial, "loss", loss)
    evaluations = list(trial)
    record = trial.finish()
    assert [evaluation.step for evaluation in evaluations] == [3]
    assert (record.status, record.steps) == ("diverged", 6)
    assert record.selection_accuracy == evaluations[0].selection_accuracy
    assert TrialRecord.from_dict(record.to_dict()) == record


def test_a_trial_whose_logits_are_not_numbers_at_evaluation_has_diverged(tiny, monkeypatch):
    trial = Trial(tiny)
    real_logits = trial.backbone.label_logits

    def label_logits(*arguments):
        return real_logits(*arguments) * (float("nan") if not torch.is_grad_enabled() else 1)

    monkeypatch.setattr(trial.backbone, "label_logits", label_logits)
    assert list(trial) == []
    record = trial.finish()
    assert (record.status, record.evaluations) == ("diverged", ())


def test_the_record_holds_its_provenance(tiny):
    record = train(tiny)
    assert {"commit", "dirty", "versions", "hardware", "data_revision", "model_revision"} <= set(record.provenance)
    assert record.config["data_revision"] == record.provenance["data_revision"] != None  # noqa: E711
    assert record.key == resolve(tiny).key
    assert record.protocol.startswith("selected on 40 of 40 examples held out of train")
    assert (record.trainable_parameters, record.stored_parameters, record.materialised_parameters) == (72, 72, 128)


def test_records_of_newer_or_broken_schemas_are_refused(tiny):
    values = train(tiny).to_dict()
    for version in (SCHEMA_VERSION + 1, 0, None, "2"):
        with pytest.raises(ValueError, match=f"schema {version!r}; this program reads 1 to {SCHEMA_VERSION}"):
            TrialRecord.from_dict({**values, "schema_version": version})
    with pytest.raises(ValueError, match="not a trial record"):
        TrialRecord.from_dict({**values, "surprise": 1})
    with pytest.raises(ValueError, match="status is 'done'"):
        TrialRecord.from_dict({**values, "status": "done"})


def test_a_failure_is_recorded_with_its_traceback(tiny):
    try:
        raise MemoryError("too much")
    except MemoryError as error:
        record = failed_record(tiny, error, phase="search", cell="c", stratum="s", started_at="2026-01-01")
    assert record.status == "failed"
    assert record.error["type"] == "MemoryError"
    assert "test_training" in record.error["traceback"]
    assert record.to_row()["error"] == "MemoryError: too much"


def test_precision_is_resolved_once(tiny):
    resolved = resolve(tiny.replace(precision="auto"))
    assert resolved.precision == default_precision()
    assert resolved.precision in ("bf16", "fp32")
    assert resolve(resolved) == resolved


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "intel", "expected"),
    [
        (True, True, True, "bf16"),
        (False, True, True, "fp32"),  # half the speed of fp32 there
        (False, True, False, "bf16"),
        (False, False, False, "fp32"),
    ],
)
def test_bf16_is_taken_where_it_is_faster(monkeypatch, amx, avx512_bf16, intel, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr("lopt.resolve._is_intel", lambda: intel)
    assert default_precision() == expected


def test_training_lowers_the_loss_on_the_training_examples(tiny):
    """So the gradient reaches the factors with the right sign."""
    trial = Trial(tiny.replace(max_steps=120, eval_every=20, learning_rate=0.03, batch_size=16), phase="search")
    for _ in trial:
        pass
    losses = [evaluation.train_loss for evaluation in trial.evaluations]
    assert losses[-1] < losses[0]


def test_the_baselines_are_those_of_the_reported_split(tiny):
    baselines = measure_baselines(tiny)
    assert baselines["majority_accuracy"] == 0.5
    assert baselines["test_n"] == 120
    assert 0 <= baselines["zero_shot_accuracy"] <= 1


def test_predict_gives_labels_probabilities_and_the_stored_predictions(tiny, tmp_path):
    trial = Trial(tiny)
    for _ in trial:
        pass
    trial.finish(artifact=tmp_path)
    from lopt import tasks
    from lopt.examples import load_split

    prompt = load_prompt(tmp_path)
    texts = [example.text_by_column["text"] for example in load_split(tasks.get("toy"), "validation")]
    answers = prompt.predict(texts)
    assert [answer.label for answer in answers] == [tasks.get("toy").classes[i] for i in trial.predictions.predicted]
    assert all(sum(answer.probabilities.values()) == pytest.approx(1) for answer in answers)
    assert prompt.predict([]) == []
    with pytest.raises(ValueError, match="`text` is ' '"):
        prompt.predict([" "])


@pytest.mark.parametrize("file", ["prompt.safetensors", "prompt.json"])
def test_missing_or_damaged_artifacts_are_refused(tiny, tmp_path, file):
    train(tiny, artifact=tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError):
        load_prompt(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="holds no trained prompt"):
        load_prompt(tmp_path)


def test_factors_that_do_not_give_the_prompt_are_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    train(tiny, artifact=tmp_path)
    tensors = load_file(tmp_path / "prompt.safetensors")
    tensors["factors.U"] = tensors["factors.U"] + 1
    save_file(tensors, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="its prompt does not match its factors"):
        load_prompt(tmp_path)


@pytest.mark.parametrize(
    ("method", "length", "rank", "ending", "rows"),
    [
        ("lopt1", 4, 2, "U", 3),
        ("lopt1", 4, 2, "U", 1),  # would be broadcast
        ("dept", 4, 2, "A", 3),
        ("lora", None, 2, "q_proj.lora_A.default.weight", 1),
        ("fine_tuning", None, None, "embed_tokens.weight", 5),
    ],
)
def test_factors_of_another_shape_are_refused_in_one_line(tiny, tmp_path, method, length, rank, ending, rows):
    from safetensors.torch import load_file, save_file

    train(tiny.replace(method=method, length=length, rank=rank, learning_rate=1e-3, options={}), artifact=tmp_path)
    tensors = load_file(tmp_path / "prompt.safetensors")
    name = next(name for name in tensors if name.endswith(ending))
    tensors[name] = tensors[name][:rows].clone()
    save_file(tensors, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match=r"is damaged|not those of") as caught:
        load_prompt(tmp_path).evaluate()
    assert "\n" not in str(caught.value)


def test_texts_are_cut_to_the_length_that_the_method_can_read(tiny):
    """DePT's update has s rows, so no input of any part is longer, and the record counts the texts that were cut."""
    trial = Trial(tiny.replace(method="dept", options={"update_tokens": 40}))
    parts = {"train": trial.data.train, "selection": trial.data.selection, "test": trial.data.test}
    assert {name: int(part.token_counts.max()) for name, part in parts.items()} == dict.fromkeys(parts, 40)
    assert all(count > 0 for count in trial.finish().truncated.values())
    assert trial.soft_prompt().update.shape == (40, 32)


def test_every_learning_rate_warms_up_and_falls(tiny):
    """At each update every group of factors has the same share of its own learning rate."""
    config = tiny.replace(
        method="dept", schedule="linear", warmup=0.34, learning_rate=0.4, options={"update_learning_rate": 1e-3}
    )
    trial, rates = Trial(config), []
    for _ in range(config.max_steps):
        trial.update()
        rates.append([group["lr"] for group in trial.optimizer.param_groups])
    shares = np.array([0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4])  # in the first two of six steps it rises
    np.testing.assert_allclose(rates, np.outer(shares, [0.4, 1e-3]), rtol=0, atol=1e-15)


def test_a_prompt_of_another_revision_is_refused(tiny, tmp_path):
    trial = Trial(tiny)
    for change in ({"model_revision": "another"}, {"data_revision": "another"}):
        prompt = dataclasses.replace(trial.best_prompt(), config=trial.config.replace(**change))
        prompt.save(tmp_path)
        with pytest.raises(ValueError, match="at revision another, but its revision here is"):
            load_prompt(tmp_path).evaluate()
        with pytest.raises(ValueError, match="at revision another, but its revision here is"):
            Trial(prompt.config)


def test_evaluation_does_not_depend_on_the_order_of_examples(tiny):
    """An example's logits do not depend on the other examples of its batch."""
    trial = Trial(tiny)
    encoded, soft_prompt = trial.data.test, trial.soft_prompt().map(torch.Tensor.detach)
    whole = evaluation.predict_split(trial.backbone, soft_prompt, encoded, trial.label_ids)
    positions = np.array([5, 50, 100])
    part = type(encoded)(
        token_ids=tuple(encoded.token_ids[i] for i in positions),
        labels=encoded.labels[positions],
        example_ids=encoded.example_ids[positions],
        truncated_count=0,
    )
    partial = evaluation.predict_split(trial.backbone, soft_prompt, part, trial.label_ids)
    np.testing.assert_allclose(partial.logits, whole.logits[positions], rtol=1e-4, atol=1e-5)


def test_an_evaluation_batch_that_does_not_fit_is_computed_in_parts_and_the_others_keep_their_bits(tiny, monkeypatch):
    trial = Trial(tiny)
    encoded, soft_prompt = trial.data.test, trial.soft_prompt().map(torch.Tensor.detach)
    whole = evaluation.predict_split(trial.backbone, soft_prompt, encoded, trial.label_ids).logits
    batches = list(evaluation_batches(encoded.token_counts, evaluation.EVALUATION_BATCH_SIZE_BY_DEVICE["cpu"]))
    tokens = [batch.size * encoded.token_counts[batch].max() for batch in batches]
    most_tokens, real_logits, sizes = sorted(tokens)[len(tokens) // 2], type(trial.backbone).label_logits, []

    def label_logits(self, soft_prompt, ids_BT, *rest):
        if ids_BT.numel() > most_tokens:
            raise RuntimeError("CUDA error: out of memory")
        sizes.append(len(ids_BT))
        return real_logits(self, soft_prompt, ids_BT, *rest)

    monkeypatch.setattr(type(trial.backbone), "label_logits", label_logits)
    in_parts = evaluation.predict_split(trial.backbone, soft_prompt, encoded, trial.label_ids).logits
    fit = np.concatenate([batch for batch, size in zip(batches, tokens, strict=True) if size <= most_tokens])
    assert 0 < len(fit) < len(encoded) == sum(sizes) and len(sizes) > len(batches)
    np.testing.assert_array_equal(in_parts[fit], whole[fit])
    np.testing.assert_allclose(in_parts, whole, rtol=1e-4, atol=1e-5)
    most_tokens = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluation.predict_split(trial.backbone, soft_prompt, encoded, trial.label_ids)


def test_the_library_needs_torch_and_transformers_only():
    """Training imports neither ray, optuna, datasets, pyarrow, pandas, peft nor gguf; planning not even torch."""
    planning = "from lopt import TrialConfig; TrialConfig(method='lopt1', task='sst2', rank=2, learning_rate=1)"
    training = (
        "from lopt import TrialConfig, train; train(TrialConfig(method='lopt1', task='toy', backbone='tiny', length=4,"
        "rank=2, learning_rate=.1, max_steps=1, eval_every=1, precision='fp32'))"
    )
    for code, banned in (
        (planning, {"torch", "transformers", "ray", "optuna", "pandas"}),
        (training, {"ray", "optuna", "datasets", "pyarrow", "pandas", "peft", "gguf"}),
    ):
        # Each finder is wrapped in one that does not see the packages, as if they were not installed.
        hide_packages = (
            "import sys\n"
            "class Hide:\n"
            "    def __init__(self, finder): self.finder = finder\n"
            "    def __getattr__(self, name): return getattr(self.finder, name)\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        return None if name.split('.')[0] in {banned!r} else self.finder.find_spec(name, path, target)\n"
            "sys.meta_path[:] = map(Hide, sys.meta_path)\n"
        )
        subprocess.run([sys.executable, "-c", hide_packages + code], check=True, timeout=120)
