"""The plain loop of one trial: the reference that every faster path is held against.

trial = Trial(config)
for evaluation in trial:      # one at every `eval_every` steps and at the end; leave the loop to stop early
    ...
record = trial.finish()
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lopt import backbones, memory, methods
from lopt.artifact import Prompt, check_revisions, load_prompt
from lopt.batches import collate, training_batches
from lopt.checkpoint import KEPT, Checkpoint
from lopt.config import TrialConfig
from lopt.data import prepare
from lopt.dropout import masks
from lopt.evaluation import predict_split
from lopt.failure import described
from lopt.fingerprint import fingerprint
from lopt.metrics import Predictions
from lopt.optim import make_optimizer, share_of_rate
from lopt.records import Evaluation, TrialRecord, now, provenance
from lopt.resolve import resolve

# A loss so many times that of guessing, and of the trial's first evaluation, has exploded.
_EXPLOSION = 20


class Trial:
    """One configuration in training.

    Attributes:
        config: resolved. factors: the trained tensors by name. evaluations: so far. step: updates done.
        train_time_s, evaluation_time_s: of its device, as in `TrialRecord`.
        soft: gives what stands at the input as the factors are, differentiable; None for methods that change weights.
        predictions: on the reported split, after `finish` of a confirmed trial.
    """

    def __init__(self, config: TrialConfig, *, phase: str = "confirm") -> None:
        self._began, self.started_at = time.monotonic(), now()
        self.config, self.phase = resolve(config), phase
        config = self.config
        self.method = methods.get(config.method)
        loaded = backbones.load(config.backbone, self.method.weights_precision(config.precision))
        self.data = prepare(config, loaded)
        check_revisions(config, self.data.revision, loaded.revision)
        self.label_ids = loaded.label_ids(config.label_words or ())
        self.label_tokens = tuple(self.label_ids.tolist())  # the same, for the processor
        tuned = self.method.begin(loaded, config)
        self.backbone, self.factors, self.counts, self.soft_prompt = (
            tuned.backbone,
            tuned.factors,
            tuned.counts,
            tuned.soft_prompt,
        )
        # Evaluations are without dropout: they stay with the backbone as it is.
        self._in_steps = self.backbone.with_dropout(config.dropout) if config.dropout else self.backbone
        self._optimizer = make_optimizer(config, self.factors, self.method.learning_rates(config))
        self._batches = training_batches(self.data.train.lengths, config.batch_size, config.seed)
        self.step, self.tokens, self.diverged = 0, 0, False
        self.train_time_s, self.evaluation_time_s = 0.0, 0.0
        self._alone = False  # whether it trains by its own `advance`, so that memory is its own
        self._most_rows = 0  # of a batch at a time; 0 is all of it, until memory runs out
        self._part_begins = 0  # at this place in the batch
        self._losses: list[Tensor] = []  # since the last evaluation
        self._train_loss = math.nan
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self._best_factors: dict[str, Tensor] = {}
        self.predictions: Predictions | None = None

    def draw(self) -> np.ndarray:
        """Positions of the next batch in the training examples, `[B]`."""
        positions = next(self._batches)
        self.tokens += int(self.data.train.lengths[positions].sum()) + len(positions) * (self.config.length or 0)
        return positions

    def loss(self, positions: np.ndarray) -> Tensor:
        """Mean cross-entropy over the classes of a batch of training positions `[B]`, in nats, as at this step: with
        dropout, masks are a function of the trial's seed, its step, and which part of a batch this is."""
        ids_BT, lengths_B, labels_B = collate(self.data.train, positions, self.backbone.pad_id)
        drawn = masks(self.backbone.device, self.config.seed, self.step, self._part_begins)
        with drawn if self.config.dropout else contextlib.nullcontext():
            logits_BC = self._in_steps.label_logits(self.soft_prompt(), ids_BT, lengths_B, self.label_ids)
        return cross_entropy(logits_BC, labels_B.to(logits_BC.device))

    def update(self) -> Tensor:
        """One optimiser step on the next batch; its loss before the step."""
        loss = self._learn(self.draw())
        self.apply_gradients(loss)
        return loss

    def _learn(self, positions: np.ndarray) -> Tensor:
        """Leaves the gradient of a batch's mean loss on the factors; the loss. Where memory runs out the batch goes in
        parts, each with masks of its own, and the size that fits is kept from then on."""
        while True:
            self.clear_gradients()
            size = min(self._most_rows or len(positions), len(positions))
            shares = []
            try:
                for begin in range(0, len(positions), size):
                    part, self._part_begins = positions[begin : begin + size], begin
                    share = self.loss(part) * (len(part) / len(positions))
                    share.backward()
                    shares.append(share.detach())
                return sum(shares[1:], shares[0])
            except Exception as error:
                if not memory.ran_out(error) or size == 1:
                    raise
                self._most_rows = size // 2
            memory.free()

    def clear_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def apply_gradients(self, loss: Tensor) -> None:
        """One optimiser step with the gradients that the factors hold; `loss` is the batch's, before the step."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["rate"] * share_of_rate(self.config, self.step)
        torch.nn.utils.clip_grad_norm_(self.factors.values(), self.config.clip_norm)
        self._optimizer.step()
        self._losses.append(loss)
        self.step += 1

    @property
    def elapsed_s(self) -> float:
        """Since the trial began, without the time between a checkpoint and its restoration."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether no update is left to do."""
        return self.diverged or self.step >= self.config.max_steps

    def pause(self) -> bool:
        """Whether it is time for an evaluation, which takes in the losses since the last one. A loss that has exploded,
        or a loss or factor that is not finite, ends the trial instead."""
        if not self._losses or (self.step % self.config.eval_every and self.step < self.config.max_steps):
            return False
        self._train_loss = float(sum(self._losses) / len(self._losses))  # the one synchronisation with the device
        self._losses.clear()
        finite = all(bool(f.isfinite().all()) for f in self.factors.values())
        usual = max(math.log(len(self.label_tokens)), self.evaluations[0].train_loss if self.evaluations else 0.0)
        self.diverged = not (finite and self._train_loss <= _EXPLOSION * usual)
        return not self.diverged

    def __iter__(self) -> Iterator[Evaluation]:
        """Trains to `max_steps`, yielding each evaluation; ends early when the trial diverges."""
        while not self.over:
            if (evaluation := self.advance()) is not None:
                yield evaluation

    def advance(self) -> Evaluation | None:
        """One update, and the evaluation that is due after it."""
        if not self._alone:
            memory.watch(self.backbone.device)
            self._alone = True
        began = time.perf_counter()
        self.update()
        due = self.pause()
        updated = time.perf_counter()
        self.train_time_s += updated - began
        if not due:
            return None
        with torch.no_grad():
            soft_prompt = self.soft_prompt()
        found = predict_split(self.backbone, soft_prompt, self.data.selection, self.label_ids)
        self.evaluation_time_s += time.perf_counter() - updated
        return self.record_evaluation(found)

    def record_evaluation(self, found: Predictions) -> Evaluation | None:
        """Takes down what the prompt, as it stands, says of the selection examples; None when that is not finite."""
        if not math.isfinite(found.loss):
            self.diverged = True
            return None
        evaluation = Evaluation(
            step=self.step,
            selection_accuracy=found.accuracy,
            selection_loss=found.loss,
            train_loss=self._train_loss,
            selection_macro_f1=found.macro_f1,
            top_class_share=found.top_class_share,
            predictions=found.digest,
            wall_time_s=round(self.elapsed_s, 3),
        )
        self.evaluations.append(evaluation)
        if self.best is None or self._rank(evaluation) > self._rank(self.best):
            self.best = evaluation
            self._best_factors = {name: f.detach().to("cpu", copy=True) for name, f in self.factors.items()}
        return evaluation

    def _rank(self, evaluation: Evaluation) -> tuple[float, float]:
        """The larger, the better: by the metric, then by the loss."""
        return evaluation.score(self.config.metric) or 0.0, -evaluation.selection_loss

    def saved(self, *, cell: str | None = None) -> bytes:
        """The checkpoint that `restore` goes on from, as the content of its file (`lopt.checkpoint`)."""
        trial = {name: getattr(self, name) for name in KEPT}
        trial |= {"key": self.config.key, "config": self.config.to_dict(), "phase": self.phase, "cell": cell}
        trial |= {"train_loss": self._train_loss, "elapsed_s": self.elapsed_s}
        trial["best"] = self.evaluations.index(self.best) if self.best else None
        return Checkpoint(
            trial=trial,
            evaluations=self.evaluations,
            factors=self.factors,
            best_factors=self._best_factors,
            optimizer=self._optimizer.state_dict()["state"],
            losses=self._losses,
        ).to_bytes()

    def restore(self, checkpoint: bytes) -> None:
        """Goes on from what `saved` returned; a trial that has not begun. ValueError when that is damaged, or another
        trial's; this one is then as it was."""
        saved = Checkpoint.from_bytes(checkpoint, key=self.config.key, factors=self.factors)
        with torch.no_grad():
            for name, factor in self.factors.items():
                factor.copy_(saved.factors[name])
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": saved.optimizer})
        for name in KEPT:
            setattr(self, name, saved.trial[name])
        lengths = self.data.train.lengths
        self._batches = training_batches(lengths, self.config.batch_size, self.config.seed, skip=self.step)
        self._began, self._train_loss = time.monotonic() - saved.trial["elapsed_s"], saved.trial["train_loss"]
        device = next(iter(self.factors.values())).device
        self._losses = [loss.to(device) for loss in saved.losses]
        self.evaluations, self._best_factors = list(saved.evaluations), dict(saved.best_factors)
        self.best = None if saved.trial["best"] is None else self.evaluations[saved.trial["best"]]

    def best_prompt(self) -> Prompt:
        """What was trained, as of the best evaluation; the current state before any."""
        factors = self._best_factors or {name: f.detach().cpu().clone() for name, f in self.factors.items()}
        # Made on the CPU, as `load_prompt` re-makes it: the saved prompt is the one that is scored.
        return Prompt(self.config, factors, self.method.made(self.config, factors, self.backbone.width))

    def finish(
        self, *, artifact: str | Path | None = None, cell: str | None = None, stratum: str | None = None
    ) -> TrialRecord:
        """The record of what was done: complete, stopped before `max_steps`, or diverged.

        A complete trial of the confirm phase saves its best prompt to `artifact` and is scored on the reported
        split from the file; `predictions` then holds what it said of each example.
        """
        status = "diverged" if self.diverged else "complete" if self.step >= self.config.max_steps else "stopped"
        scored = self._score(artifact) if self.phase == "confirm" and status == "complete" else {}
        return self._record(status, cell=cell, stratum=stratum, **scored)

    def failed(self, error: BaseException, *, cell: str | None = None, stratum: str | None = None) -> TrialRecord:
        """The record of a trial that raised `error` after it had begun."""
        return self._record("failed", cell=cell, stratum=stratum, error=described(error))

    def _record(self, status: str, **more: Any) -> TrialRecord:
        parts = {"train": self.data.train, "selection": self.data.selection, "test": self.data.test}
        best = self.best
        return TrialRecord(
            key=self.config.key,
            config=self.config.to_dict(),
            phase=self.phase,
            status=status,
            width=self.backbone.width,
            trainable_parameters=self.counts.trainable,
            stored_parameters=self.counts.stored,
            materialised_parameters=self.counts.materialised,
            steps=self.step,
            max_steps=self.config.max_steps,
            evaluations=tuple(self.evaluations),
            selection_accuracy=best.selection_accuracy if best else None,
            selection_loss=best.selection_loss if best else None,
            selection_step=best.step if best else None,
            selection_n=len(self.data.selection),
            truncated={name: part.truncated for name, part in parts.items()},
            protocol=self.data.protocol,
            wall_time_s=round(self.elapsed_s, 3),
            train_time_s=round(self.train_time_s, 3),
            evaluation_time_s=round(self.evaluation_time_s, 3),
            peak_memory_bytes=memory.peak(self.backbone.device) if self._alone else None,
            tokens=self.tokens,
            started_at=self.started_at,
            provenance=provenance(data_revision=self.data.revision, model_revision=self.backbone.revision),
            **more,
        )

    def _score(self, artifact: str | Path | None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(artifact) if artifact else Path(scratch)
            self.best_prompt().save(folder)
            self._optimizer.state.clear()  # fine-tuning needs the room for the model that is scored
            self.clear_gradients()
            prompt = load_prompt(folder)
            began = time.perf_counter()
            predictions = self.predictions = prompt.evaluate()
            scores = {
                "test_time_s": round(time.perf_counter() - began, 3),
                "test_accuracy": predictions.accuracy,
                "test_macro_f1": predictions.macro_f1,
                "test_loss": predictions.loss,
                "test_n": len(predictions.gold),
                "test_split": self.data.report_split,
                "test_split_size": self.data.report_size,
                "majority_accuracy": predictions.majority_share,
            }
            counts = {"trainable_parameters": self.counts.trainable, "stored_parameters": self.counts.stored}
            prompt.describe(folder, {**scores, **counts, "weights": fingerprint(prompt.base)})
        return scores


def train(config: TrialConfig, *, artifact: str | Path | None = None) -> TrialRecord:
    """Trains one configuration to the end and scores its best prompt on the reported split. No Ray, no store.

    Args:
        config: the trial.
        artifact: folder for the trained prompt, which `load_prompt` opens; made when absent. None keeps none.

    Returns:
        The record, of status "complete"; or "diverged", where the loss or a factor came to be no number, or the loss
        exploded. A trial that diverged has no test_accuracy (None), and writes no artifact.

    Raises:
        ValueError: data or weights that cannot be had, or that do not fit the configuration.
        OSError: the artifact cannot be written.
    """
    trial = Trial(config)
    for _ in trial:
        pass
    return trial.finish(artifact=artifact)
