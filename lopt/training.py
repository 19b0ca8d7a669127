"""The training of one trial by itself. This plain loop is the reference: every faster path must give the same results.

trial = Trial(config)
for evaluation in trial:      # one at every `eval_every` steps and at the end; leave the loop to stop early
    ...
record = trial.finish()
"""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lopt import backbones, memory, methods, restarts
from lopt.artifact import Prompt, check_revisions
from lopt.batches import collate, training_batches
from lopt.checkpoint import TRIAL_ATTRIBUTES, Checkpoint
from lopt.config import TrialConfig, reported_metrics
from lopt.data import prepare_data, prepare_held_out
from lopt.device import time_of_device_s, to_device
from lopt.dropout import seeded_masks
from lopt.evaluation import predict_split
from lopt.failure import error_entry
from lopt.final_scores import score_fields, score_held_out, score_reported_split
from lopt.metrics import Predictions
from lopt.optim import clip_gradients, make_optimizer, set_learning_rates
from lopt.records import Evaluation, TrialRecord, utc_now
from lopt.resolve import resolve
from lopt.trial_record import make_record

# A trial has diverged when its loss is this many times larger than both the loss of guessing and its own first loss.
_EXPLOSION_FACTOR = 20


class Trial:
    """One configuration in training.

    Attributes:
        config: the resolved configuration.
        factors: the trained tensors by name. frozen_factors: the random matrices of the method that are not trained.
        soft_prompt: function that computes the soft prompt with autograd. None for methods that change weights.
        step: number of updates since the present start. abandoned_starts, abandoned_steps: number of earlier starts,
            and of their updates (`lopt.restarts`). tokens: number of tokens trained on, without padding.
        diverged: whether training ended because the loss exploded or a value was not finite.
        evaluations: all evaluations so far. best: the best of them; None before the first.
        train_time_s, evaluation_time_s: seconds on the device, as in `TrialRecord`.
        predictions: predictions on the reported split, set by `finish` for a complete trial of the confirm phase.
        optimizer: the optimiser of the factors. units: by a factor's name, the unit of its values, if it is not 1.
        trains_alone: whether `advance` was called; then the peak of memory is this trial's own.
    """

    def __init__(self, config: TrialConfig, *, phase: str = "confirm") -> None:
        self._began_at, self.started_at = time.monotonic(), utc_now()
        config = resolve(config)
        self.config, self.phase = config, phase
        self.method = methods.get(config.method)
        self._frozen_backbone = frozen = backbones.load(
            config.backbone, self.method.weights_precision(config.precision)
        )
        self.data = prepare_data(config, frozen)
        check_revisions(config, self.data.revision, frozen.revision)
        self.label_ids = frozen.label_ids(config.label_words or ())
        self.label_ids_on_cpu = tuple(self.label_ids.tolist())  # the same ids for code that runs on the CPU
        model = self.method.begin(frozen, config)
        self.backbone, self.factors = model.backbone, model.factors
        self.counts, self.soft_prompt, self.frozen_factors = model.counts, model.soft_prompt, model.frozen_factors
        # Dropout is for training steps only. Evaluations use `self.backbone`, which has none.
        self._training_backbone = self.backbone.with_dropout(config.dropout) if config.dropout else self.backbone
        self.units = model.units
        self.optimizer = make_optimizer(config, self.factors, self.method.learning_rates(config), self.units)
        self._batches = training_batches(self.data.train.token_counts, config.batch_size, config.seed)
        self.step, self.abandoned_starts, self.abandoned_steps, self.tokens, self.diverged = 0, 0, 0, 0, False
        self.train_time_s, self.evaluation_time_s = 0.0, 0.0
        self.trains_alone = False
        self._max_part_size = 0  # number of examples that fit into memory at once; 0 while a whole batch fits
        self._part_start = 0  # position in the batch at which the current part begins
        self._losses: list[Tensor] = []  # training losses since the last evaluation
        self._train_loss = math.nan  # their mean, at the last evaluation
        self.evaluations: list[Evaluation] = []
        self.best: Evaluation | None = None
        self._best_factors: dict[str, Tensor] = {}
        self.predictions: Predictions | None = None

    # --- the training loop --------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[Evaluation]:
        """Train to `max_steps` and yield each evaluation. The loop ends early if the trial diverges."""
        while not self.is_over:
            if (evaluation := self.advance()) is not None:
                yield evaluation

    @property
    def total_steps(self) -> int:
        """Number of updates so far, with those of abandoned starts."""
        return self.abandoned_steps + self.step

    @property
    def is_over(self) -> bool:
        """Whether no update is left to do."""
        return self.diverged or self.step >= self.config.max_steps

    def advance(self) -> Evaluation | None:
        """Make one update. If an evaluation is due after it, evaluate and return the result."""
        if not self.trains_alone:
            memory.reset_peak(self.backbone.device)
            self.trains_alone = True
        step_start_s = time.perf_counter()
        self.update()
        is_evaluation_due = self.end_step()
        # Only here are the GPU's steps waited for: between two evaluations the CPU prepares steps ahead of the GPU.
        step_end_s = time_of_device_s(self.backbone.device) if is_evaluation_due else time.perf_counter()
        self.train_time_s += step_end_s - step_start_s
        if not is_evaluation_due:
            return None
        with torch.no_grad():
            soft_prompt = self.soft_prompt()
        predictions = predict_split(self.backbone, soft_prompt, self.data.selection, self.label_ids)
        self.evaluation_time_s += time.perf_counter() - step_end_s
        return self.record_evaluation(predictions)

    def update(self) -> Tensor:
        """Make one optimiser step on the next batch. Return the batch's loss before the step."""
        loss = self._backpropagate(self.draw_batch())
        self.apply_gradients(loss)
        return loss

    def draw_batch(self) -> np.ndarray:
        """Return the next batch as positions in the training examples, `[B]`."""
        positions = next(self._batches)
        self.tokens += int(self.data.train.token_counts[positions].sum()) + len(positions) * (self.config.length or 0)
        return positions

    def _backpropagate(self, positions: np.ndarray) -> Tensor:
        """Compute the gradient of a batch's mean loss for each factor, as `factor.grad`. Return the loss.

        If memory runs out, the batch is computed in smaller parts, each with its own dropout masks. Later batches are
        computed in parts of the size that fits.
        """
        while True:
            self.clear_gradients()
            part_size = min(self._max_part_size or len(positions), len(positions))
            part_losses = []
            try:
                for begin in range(0, len(positions), part_size):
                    part_positions, self._part_start = positions[begin : begin + part_size], begin
                    part_loss = self.loss(part_positions) * (len(part_positions) / len(positions))
                    part_loss.backward()
                    part_losses.append(part_loss.detach())
                return sum(part_losses[1:], part_losses[0])
            except Exception as error:
                if not memory.is_out_of_memory(error) or part_size == 1:
                    raise
                self._max_part_size = part_size // 2
            memory.release_unused()

    def loss(self, positions: np.ndarray) -> Tensor:
        """Return the mean cross-entropy over the classes, in nats, of the training examples at `positions` `[B]`.
        Dropout masks are a function of the trial's seed, its step, and where the current part of the batch begins."""
        ids_BT, lengths_B, labels_B = collate(self.data.train, positions, self.backbone.pad_id)
        dropout_masks = seeded_masks(self.backbone.device, self.config.seed, self.total_steps, self._part_start)
        with dropout_masks if self.config.dropout else contextlib.nullcontext():
            logits_BC = self._training_backbone.label_logits(self.soft_prompt(), ids_BT, lengths_B, self.label_ids)
        return cross_entropy(logits_BC, to_device(labels_B, logits_BC.device))

    def clear_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def apply_gradients(self, loss: Tensor) -> None:
        """Make one optimiser step with the gradients of the factors. `loss` is the batch's loss before the step."""
        set_learning_rates(self.optimizer, self.config, self.step)
        clip_gradients(self.factors, self.units, self.config.clip_norm)
        self.optimizer.step()
        self.record_step(loss)

    def record_step(self, loss: Tensor) -> None:
        """Count an optimiser step that has been made. `loss` is the batch's loss before the step."""
        self._losses.append(loss)
        self.step += 1

    def _begin_anew(self) -> bool:
        """Abandon this start, and begin again from other initial values. Return False, as no evaluation is due."""
        self.abandoned_starts, self.abandoned_steps, self.step = self.abandoned_starts + 1, self.total_steps, 0
        self._losses.clear()
        self.optimizer.state.clear()  # before `begin`, which copies the model for methods that train its weights
        self.clear_gradients()
        seed = restarts.seed_of_start(self.config.seed, self.abandoned_starts)
        new_factors = self.method.begin(self._frozen_backbone, self.config.replace(seed=seed)).factors
        for name, factor in self.factors.items():
            factor.data.copy_(new_factors[name])
        return False

    # --- evaluations --------------------------------------------------------------------------------------------
    def end_step(self) -> bool:
        """Do what follows a step, and return whether to evaluate: at every `eval_every` steps and at the end. The trial
        has diverged, and is not evaluated then, if the mean of the losses since the last evaluation has exploded, or if
        it or a factor is not finite."""
        max_steps, loss_limit = self.config.max_steps, _EXPLOSION_FACTOR * math.log(len(self.label_ids_on_cpu))
        steps_to_check = restarts.check_step(max_steps) - self.step if self.config.restarts else -1
        may_restart = self.method.draws_initial_values and self.abandoned_starts < self.config.restarts
        labels = self.data.train.labels
        if steps_to_check == 0 and may_restart and restarts.is_stuck(self._losses, max_steps, labels, loss_limit):
            return self._begin_anew()
        is_due = steps_to_check <= 0 and (self.step % self.config.eval_every == 0 or self.step >= max_steps)
        if not is_due or not self._losses:
            return False
        self._train_loss = float(sum(self._losses) / len(self._losses))  # only here does training wait for the device
        self._losses.clear()
        is_finite = all(bool(factor.isfinite().all()) for factor in self.factors.values())
        first_loss = self.evaluations[0].train_loss if self.evaluations else 0.0
        self.diverged = not (is_finite and self._train_loss <= max(loss_limit, _EXPLOSION_FACTOR * first_loss))
        return not self.diverged

    def record_evaluation(self, predictions: Predictions) -> Evaluation | None:
        """Record what the current factors predict for the selection examples, and keep the factors if they are the
        best so far. If the loss is not finite, the trial has diverged, and the result is None."""
        if not math.isfinite(predictions.loss):
            self.diverged = True
            return None
        evaluation = Evaluation(
            step=self.step,
            **score_fields("selection", predictions, reported_metrics(self.config)),
            selection_loss=predictions.loss,
            train_loss=self._train_loss,
            top_class_share=predictions.top_class_share,
            predictions=predictions.digest,  # only a hash of the predicted classes
            wall_time_s=round(self.elapsed_s, 3),
        )
        self.evaluations.append(evaluation)
        if self.best is None or self._sort_key(evaluation) > self._sort_key(self.best):
            self.best = evaluation
            self._best_factors = {name: factor.detach().to("cpu", copy=True) for name, factor in self.factors.items()}
        return evaluation

    def _sort_key(self, evaluation: Evaluation) -> tuple[float, float]:
        """Return a tuple that is larger for a better evaluation: first by the metric, then by the loss."""
        return evaluation.score(str(self.config.metric)) or 0.0, -evaluation.selection_loss

    @property
    def elapsed_s(self) -> float:
        """Seconds since the trial began, without the time between a checkpoint and its restoration."""
        return time.monotonic() - self._began_at

    # --- the result ---------------------------------------------------------------------------------------------
    def finish(
        self, *, artifact: str | Path | None = None, cell: str | None = None, stratum: str | None = None
    ) -> TrialRecord:
        """Return the record of the trial in its present state: complete, diverged, or stopped before `max_steps`.

        The best prompt of a complete trial is scored (`lopt.final_scores`). In the confirm phase, it is saved to
        `artifact`, and its predictions on the reported split are kept in `predictions`.
        """
        status = "diverged" if self.diverged else "complete" if self.step >= self.config.max_steps else "stopped"
        scores = self._final_scores(artifact) if status == "complete" else {}
        return make_record(self, status, cell=cell, stratum=stratum, **scores)

    def failure_record(self, error: BaseException, **cell_and_stratum: str | None) -> TrialRecord:
        """Return the record of a trial that raised `error` after it had begun."""
        return make_record(self, "failed", **cell_and_stratum, error=error_entry(error))

    def best_prompt(self) -> Prompt:
        """Return what was trained: the factors of the best evaluation, or the current ones if there was none yet."""
        factors = self._best_factors or {name: factor.detach().cpu().clone() for name, factor in self.factors.items()}
        # The prompt is computed on the CPU, as in `load_prompt`, so that a loaded prompt equals this one bit for bit.
        return Prompt(self.config, factors, self.method.rebuild(self.config, factors, self.backbone.width))

    def _final_scores(self, artifact: str | Path | None) -> dict[str, Any]:
        """Score the prompt of the best evaluation as `lopt.final_scores` says. Return the scores by field."""
        self.optimizer.state.clear()  # fine-tuning needs this memory for the model that is scored
        self.clear_gradients()
        assert self.best is not None
        with torch.no_grad():
            for name, factor in self.factors.items():
                factor.copy_(self._best_factors[name])
            soft_prompt = self.soft_prompt()
        start_s = time.perf_counter()
        selection = self.data.selection
        held_out = selection if self.config.shots else prepare_held_out(self.config, self.backbone)
        scores = score_held_out(self.backbone, soft_prompt, held_out, self.label_ids, self.best, len(selection))
        self.evaluation_time_s += time.perf_counter() - start_s
        if self.phase == "confirm":
            test_scores, self.predictions = score_reported_split(self.best_prompt(), self.data, self.counts, artifact)
            scores |= test_scores
        return scores

    # --- checkpoints --------------------------------------------------------------------------------------------
    def to_checkpoint(self, *, cell: str | None = None) -> bytes:
        """Return a checkpoint of the trial as the content of its file (`lopt.checkpoint`), for `restore`."""
        entries = {name: getattr(self, name) for name in TRIAL_ATTRIBUTES}
        entries |= {"key": self.config.key, "config": self.config.to_dict(), "phase": self.phase, "cell": cell}
        entries |= {"train_loss": self._train_loss, "elapsed_s": self.elapsed_s}
        entries["best"] = self.evaluations.index(self.best) if self.best else None
        return Checkpoint(
            trial_entries=entries,
            evaluations=self.evaluations,
            factors=self.factors,
            best_factors=self._best_factors,
            optimizer_state=self.optimizer.state_dict()["state"],
            losses=self._losses,
        ).to_bytes()

    def restore(self, checkpoint: bytes) -> None:
        """Continue from a checkpoint of `to_checkpoint`. This trial must not have begun. Raises ValueError, and changes
        nothing, if the checkpoint is damaged or of another trial."""
        saved = Checkpoint.from_bytes(checkpoint, key=self.config.key, factor_names=self.factors)
        entries = saved.trial_entries
        with torch.no_grad():
            for name, factor in self.factors.items():
                factor.copy_(saved.factors[name])
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": saved.optimizer_state})
        for name in TRIAL_ATTRIBUTES:
            setattr(self, name, entries[name])
        lengths = self.data.train.token_counts
        self._batches = training_batches(lengths, self.config.batch_size, self.config.seed, skip=self.total_steps)
        self._began_at, self._train_loss = time.monotonic() - entries["elapsed_s"], entries["train_loss"]
        device = next(iter(self.factors.values())).device
        self._losses = [loss.to(device) for loss in saved.losses]
        self.evaluations, self._best_factors = list(saved.evaluations), dict(saved.best_factors)
        self.best = None if entries["best"] is None else self.evaluations[entries["best"]]
