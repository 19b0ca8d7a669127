"""Packed trials: several trials in one forward and backward pass over one frozen backbone. This is faster than training
each `training.Trial` by itself, and gives the same results.

The backbone is frozen, so trials in one pass do not affect one another. A row of a pass is one text of one trial, with
the soft prompt of that trial. Each trial receives exactly its own gradient, and keeps its own batches, learning rate,
optimiser, seed and step. Trials enter and leave between steps.

    engine = Engine()
    engine.admit(Trial(config)) ...
    for trial, outcome in engine:         # at every trial's own evaluations; `engine.evict(trial)` stops one early
        ...
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from lopt.device import time_of_device_s, to_device
from lopt.metrics import Predictions
from lopt.pass_runner import PassRunner
from lopt.passes import Rows, make_rows
from lopt.records import Evaluation
from lopt.soft_prompt import SoftPrompt
from lopt.stacks import Stack, Stacks, prompt_tensors
from lopt.training import Trial

# What the engine yields with a trial: an evaluation, None if the trial has diverged, or the exception if it failed.
Outcome = Evaluation | None | Exception

Result = TypeVar("Result")


class _PassResult(NamedTuple):
    """What one pass computes. The owner of a row is the index of its trial (`lopt.passes`)."""

    owner_R: Tensor
    losses_R: Tensor  # each row's part of its trial's mean loss
    slices: list[tuple[int, int, int]]  # parts of stacks: index of the stack, its first entry, and one past its last
    gradients: list[list[Tensor]]  # for each part, the gradient of each tensor of its soft prompts


class Engine(PassRunner):
    """Trials in training over one backbone.

    Args:
        max_pass_tokens: the largest number of tokens in one pass. If it is None, it is chosen for the device. If memory
            runs out, the pass is split, and the attribute `max_pass_tokens` is halved for later passes.
        lane_count: number of passes that run side by side (`lopt.lanes`). If it is None, it is chosen for the backbone.
    """

    def __init__(self, *, max_pass_tokens: int | None = None, lane_count: int | None = None) -> None:
        super().__init__(max_pass_tokens=max_pass_tokens, lane_count=lane_count)
        self.trials: list[Trial] = []
        self._stacks = Stacks()

    def admit(self, trial: Trial) -> None:
        """Add a trial. It takes part from the next step on.

        Raises:
            ValueError: the trial changes weights, has dropout, or has another backbone.
        """
        if trial.config.dropout:
            raise ValueError(f"dropout is {trial.config.dropout:g}, and each trial draws its own masks: train it alone")
        if trial.soft_prompt() is None:
            raise ValueError(
                f"{trial.config.method} changes the model's weights, which cannot be shared: train it alone"
            )
        if not hasattr(self, "_backbone"):
            self._use_backbone(trial.backbone)
        if trial.backbone is not self._backbone:
            raise ValueError(
                f"this engine runs on {self._backbone.name}; the trial's backbone is another copy or model "
                f"({trial.backbone.name}): load the backbone once, and give it to all trials"
            )
        self.trials.append(trial)

    def evict(self, trial: Trial) -> None:
        """Remove a trial. It keeps what it has trained."""
        self.trials.remove(trial)

    def __iter__(self) -> Iterator[tuple[Trial, Outcome]]:
        """Train until no trial is left, and yield each trial with its outcome.

        The outcome is an evaluation, None if the trial has diverged, or the exception if it has failed. A trial that
        is over is removed before it is yielded. Between two yields any trial may be admitted or evicted.
        """
        while self.trials:
            yield from self.advance()

    def advance(self) -> list[tuple[Trial, Outcome]]:
        """Update every trial once, evaluate those that are due, and return the pairs that `__iter__` yields."""
        step_start_s, self._token_share_by_trial = time.perf_counter(), {}
        failures = self.update_trials()
        updated = [trial for trial in self.trials if trial not in failures]
        is_due_by_trial = _for_each(updated, lambda trial: trial.end_step(), failures)
        # Between two evaluations the CPU prepares steps ahead of the GPU. The step before one waits for the GPU.
        step_end_s = time_of_device_s(self._backbone.device) if any(is_due_by_trial.values()) else time.perf_counter()
        for trial, share in self._token_share_by_trial.items():
            trial.train_time_s += share * (step_end_s - step_start_s)
        evaluations = self._evaluate([trial for trial, is_due in is_due_by_trial.items() if is_due], failures)
        for trial, share in self._token_share_by_trial.items():
            trial.evaluation_time_s += share * (time.perf_counter() - step_end_s)
        diverged = {trial: None for trial in is_due_by_trial if trial.diverged}
        outcomes: dict[Trial, Outcome] = {**evaluations, **diverged, **failures}
        for trial in [trial for trial in self.trials if trial.is_over or trial in failures]:
            self.evict(trial)
        return list(outcomes.items())

    # --- updates ------------------------------------------------------------------------------------------------
    def update_trials(self) -> dict[Trial, Exception]:
        """Update every trial once, each on its own next batch.

        Returns:
            The exception of each trial that failed. `advance` removes these trials. If a trial's own part of the step
            raises, that trial fails alone. If a pass raises, all trials with rows in it fail.
        """
        failures: dict[Trial, Exception] = {}
        positions_by_trial = _for_each(self.trials, lambda trial: trial.draw_batch(), failures)
        stacks_and_prompts = self._compute_soft_prompts(positions_by_trial, failures)
        if not stacks_and_prompts:
            return failures
        trials = [trial for stack, _ in stacks_and_prompts for trial in stack.trials]
        batch_positions = [positions_by_trial[trial] for trial in trials]
        stacked_prompts = [soft_prompt for _, soft_prompt in stacks_and_prompts]
        losses_K, gradients = self._losses_and_gradients(trials, batch_positions, stacked_prompts, failures)
        losses, begin = losses_K.unbind(0), 0
        for (stack, soft_prompt), stack_gradients in zip(stacks_and_prompts, gradients, strict=True):
            stack_losses, begin = losses[begin : begin + len(stack.trials)], begin + len(stack.trials)
            if any(trial in failures for trial in stack.trials):  # a part of them is left: they step one by one
                self._update_one_by_one(stack, stack_gradients, stack_losses, failures)
                continue
            try:
                stack.update(soft_prompt, stack_gradients, stack_losses)
            except Exception as error:
                failures.update(dict.fromkeys(stack.trials, error))
        return failures

    def _compute_soft_prompts(
        self, trials: Iterable[Trial], failures: dict[Trial, Exception]
    ) -> list[tuple[Stack, SoftPrompt]]:
        """Return the trials in stacks, with their soft prompts as functions of the factors."""
        stacks_and_prompts = []
        for stack in self._stacks.of(trials):
            try:
                stacks_and_prompts.append((stack, stack.soft_prompt()))
            except Exception as error:
                failures.update(dict.fromkeys(stack.trials, error))
        return stacks_and_prompts

    def _update_one_by_one(
        self, stack: Stack, gradients: Sequence[Tensor], losses: Sequence[Tensor], failures: dict[Trial, Exception]
    ) -> None:
        """Update the trials of a stack that have not failed, each by the plain path."""

        def update_trial(trial: Trial) -> None:
            index, alone = stack.trials.index(trial), Stack([trial])
            trial_gradients = [gradient[index : index + 1] for gradient in gradients]
            alone.update(alone.soft_prompt(), trial_gradients, losses[index : index + 1])

        _for_each([trial for trial in stack.trials if trial not in failures], update_trial, failures)

    def _losses_and_gradients(
        self,
        trials: Sequence[Trial],
        batch_positions: Sequence[np.ndarray],
        stacked_prompts: Sequence[SoftPrompt],
        failures: dict[Trial, Exception],
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Return each trial's mean loss, `[K]`, and the gradients of the stacked prompts' tensors.

        The passes use copies of the prompts that are detached from the factors. A pass takes, of every stack, the
        entries from its first to its last trial with a row in the pass.

        Args:
            batch_positions: for each trial, the positions of its batch in `trial.data.train`.
            stacked_prompts: soft prompts with tensors `[K, ...]`. Their trials are in the order of `trials`.
        """
        examples_and_positions = list(zip((trial.data.train for trial in trials), batch_positions, strict=True))
        rows = make_rows([examples.token_ids[i] for i in positions] for examples, positions in examples_and_positions)
        labels = [examples.labels[positions] for examples, positions in examples_and_positions]
        stack_and_index = [
            (stack_index, index) for stack_index, soft_prompt in enumerate(stacked_prompts)
            for index in range(len(soft_prompt.prompt))
        ]  # fmt: skip
        detached = [soft_prompt.map(lambda tensor: tensor.detach()) for soft_prompt in stacked_prompts]
        soft_prompts = [prompt for stacked_prompt in detached for prompt in stacked_prompt.unbind()]
        device, dtype = detached[0].prompt.device, detached[0].prompt.dtype
        batch_sizes_K = to_device([len(positions) for positions in batch_positions], device).to(dtype)
        result_by_first_row: dict[tuple[int, int], _PassResult] = {}  # by owner and `index_in_batch` of that row

        def run_pass(pass_rows: Rows) -> None:
            owners_by_stack: dict[int, list[int]] = {}
            for owner in sorted({row.owner for row in pass_rows}):
                owners_by_stack.setdefault(stack_and_index[owner][0], []).append(owner)
            pass_prompts, slices, leaves = list(soft_prompts), [], []
            for stack_index, owners in owners_by_stack.items():
                begin, end = stack_and_index[owners[0]][1], stack_and_index[owners[-1]][1] + 1
                part = detached[stack_index].map(lambda tensor, b=begin, e=end: tensor[b:e].detach().requires_grad_())
                pass_prompts[owners[0] : owners[0] + end - begin] = part.unbind()
                slices.append((stack_index, begin, end))
                leaves.append(prompt_tensors(part))
            owner_R = to_device([row.owner for row in pass_rows], device)
            losses_R = self._row_losses(trials, pass_prompts, pass_rows, labels) / batch_sizes_K[owner_R]
            # One call for the whole pass, so that a pass that runs out of memory leaves no partial gradients.
            flat_leaves = [leaf for part_leaves in leaves for leaf in part_leaves]
            gradient_iterator = iter(torch.autograd.grad(losses_R.sum(), flat_leaves))
            pass_gradients = [[next(gradient_iterator) for _ in part_leaves] for part_leaves in leaves]
            result = _PassResult(owner_R, losses_R.detach().to(dtype), slices, pass_gradients)
            result_by_first_row[pass_rows[0].owner, pass_rows[0].index_in_batch] = result

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, run_pass, failures, before_repeat=result_by_first_row.clear)
        losses_K = torch.zeros(len(trials), dtype=dtype, device=device)
        gradients = [[torch.zeros_like(tensor) for tensor in prompt_tensors(prompt)] for prompt in detached]
        for _, result in sorted(result_by_first_row.items()):  # always in the same order, whichever pass ended first
            losses_K.index_add_(0, result.owner_R, result.losses_R)
            for (stack_index, begin, end), part_gradients in zip(result.slices, result.gradients, strict=True):
                for gradient_sum, gradient in zip(gradients[stack_index], part_gradients, strict=True):
                    gradient_sum[begin:end].add_(gradient)
        return losses_K, gradients

    # --- evaluations --------------------------------------------------------------------------------------------
    def _evaluate(self, trials: Sequence[Trial], failures: dict[Trial, Exception]) -> dict[Trial, Evaluation | None]:
        """Evaluate trials on their selection examples, all in the same passes."""
        with torch.no_grad():
            soft_prompt_by_trial = _for_each(trials, _compute_soft_prompt, failures)
        trials, soft_prompts = list(soft_prompt_by_trial), list(soft_prompt_by_trial.values())
        rows = make_rows(trial.data.selection.token_ids for trial in trials)
        logits_by_pass: list[tuple[Rows, Tensor, dict[int, list[int]]]] = []

        def run_pass(pass_rows: Rows) -> None:
            with torch.inference_mode():
                logits_by_pass.append((pass_rows, *self._logits(trials, soft_prompts, pass_rows)))

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, run_pass, failures, before_repeat=logits_by_pass.clear)
        logits_by_owner = [np.empty((len(trial.data.selection), len(trial.label_ids))) for trial in trials]
        for pass_rows, logits_RC, logit_columns_by_owner in logits_by_pass:  # only here does the CPU wait for a GPU
            for row, row_logits in zip(pass_rows, logits_RC.cpu().numpy(), strict=True):
                logits_by_owner[row.owner][row.index_in_batch] = row_logits[logit_columns_by_owner[row.owner]]

        def record_evaluation(trial: Trial) -> Evaluation | None:
            selection, trial_logits = trial.data.selection, logits_by_owner[trials.index(trial)]
            return trial.record_evaluation(Predictions.of(selection, trial_logits))

        return _for_each([trial for trial in trials if trial not in failures], record_evaluation, failures)


def _for_each(
    trials: Iterable[Trial], function: Callable[[Trial], Result], failures: dict[Trial, Exception]
) -> dict[Trial, Result]:
    """Call `function` on each trial and return the results by trial. If a call raises, the exception goes into
    `failures`, and the other trials continue."""
    result_by_trial = {}
    for trial in trials:
        try:
            result_by_trial[trial] = function(trial)
        except Exception as error:
            failures[trial] = error
    return result_by_trial


def _compute_soft_prompt(trial: Trial) -> SoftPrompt:
    soft_prompt = trial.soft_prompt()
    assert soft_prompt is not None, "the engine admits only trials with a soft prompt"
    return soft_prompt
