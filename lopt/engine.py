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

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lopt import memory
from lopt.backbones import Backbone
from lopt.batches import to_device
from lopt.lanes import Lanes
from lopt.metrics import Predictions
from lopt.passes import Row, Rows, SoftPrompts, count_row_tokens, divide_into_passes
from lopt.records import Evaluation
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from lopt.training import Trial

# What the engine yields with a trial: an evaluation, None if the trial has diverged, or the exception if it failed.
Outcome = Evaluation | None | Exception

# The largest number of tokens in one pass, by type of device. An engine halves its own limit when memory runs out.
MAX_PASS_TOKENS_BY_DEVICE = {"cpu": 2048, "cuda": 16384}
_MIN_PASS_TOKENS = 64  # a limit at or below this number is not halved
Result = TypeVar("Result")


class _PassResult(NamedTuple):
    """What one pass computes. The owner of a row is the index of its trial (`lopt.passes`)."""

    owner_R: Tensor
    losses_R: Tensor  # each row's part of its trial's mean loss
    gradients_by_owner: dict[int, list[Tensor]]  # the gradient of each tensor of the owner's soft prompt


class Engine:
    """Trials in training over one backbone.

    Args:
        max_pass_tokens: the largest number of tokens in one pass. If it is None, it is chosen for the device. If memory
            runs out, the pass is split, and the attribute `max_pass_tokens` is halved for later passes.
        lane_count: number of passes that run side by side (`lopt.lanes`). If it is None, it is chosen for the backbone.
    """

    _backbone: Backbone  # this and the lanes are set when the first trial is admitted
    _lanes: Lanes

    def __init__(self, *, max_pass_tokens: int | None = None, lane_count: int | None = None) -> None:
        self.trials: list[Trial] = []
        self.max_pass_tokens = max_pass_tokens or 0  # 0 until the first trial is admitted
        self._lane_count = lane_count
        self._lock = threading.Lock()  # held by a lane that changes what other lanes use
        self._token_share_by_trial: dict[Trial, float] = {}  # each trial's share of the tokens of the last passes

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
            self._backbone, self._lanes = trial.backbone, Lanes(trial.backbone, self._lane_count)
            self.max_pass_tokens = self.max_pass_tokens or MAX_PASS_TOKENS_BY_DEVICE[self._backbone.device.type]
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
        step_end_s = time.perf_counter()
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
        step_inputs = _for_each(self.trials, lambda trial: (trial.draw_batch(), _compute_soft_prompt(trial)), failures)
        if not step_inputs:
            return failures
        trials, batch_positions = list(step_inputs), [positions for positions, _ in step_inputs.values()]
        soft_prompts = [soft_prompt for _, soft_prompt in step_inputs.values()]
        # The passes use copies that are detached from the factors. `update_trial` takes their gradients to the factors.
        detached_prompts = [prompt.map(lambda tensor: tensor.detach().requires_grad_()) for prompt in soft_prompts]
        losses_K, trial_gradients = self._losses_and_gradients(trials, batch_positions, detached_prompts, failures)

        def update_trial(trial: Trial) -> None:
            index = trials.index(trial)
            trial.clear_gradients()
            torch.autograd.backward(_prompt_tensors(soft_prompts[index]), trial_gradients[index])
            trial.apply_gradients(losses_K[index])

        _for_each([trial for trial in trials if trial not in failures], update_trial, failures)
        return failures

    def _losses_and_gradients(
        self,
        trials: Sequence[Trial],
        batch_positions: Sequence[np.ndarray],
        soft_prompts: SoftPrompts,
        failures: dict[Trial, Exception],
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Return each trial's mean loss, `[K]`, and gradients. A batch is given as positions in `trial.data.train`."""
        examples_and_positions = list(zip((trial.data.train for trial in trials), batch_positions, strict=True))
        rows = _make_rows([examples.token_ids[i] for i in positions] for examples, positions in examples_and_positions)
        labels = [examples.labels[positions] for examples, positions in examples_and_positions]
        tensors_by_owner = [_prompt_tensors(soft_prompt) for soft_prompt in soft_prompts]
        device, dtype = tensors_by_owner[0][0].device, tensors_by_owner[0][0].dtype
        batch_sizes_K = to_device([len(positions) for positions in batch_positions], device).to(dtype)
        result_by_first_row: dict[tuple[int, int], _PassResult] = {}  # by owner and `index_in_batch` of that row

        def run_pass(pass_rows: Rows) -> None:
            owners = sorted({row.owner for row in pass_rows})
            pass_tensors = [tensor for owner in owners for tensor in tensors_by_owner[owner]]
            owner_R = to_device([row.owner for row in pass_rows], device)
            losses_R = self._row_losses(trials, soft_prompts, pass_rows, labels) / batch_sizes_K[owner_R]
            # One call for the whole pass, so that a pass that runs out of memory leaves no partial gradients.
            gradient_iterator = iter(torch.autograd.grad(losses_R.sum(), pass_tensors))
            pass_gradients = {owner: [next(gradient_iterator) for _ in tensors_by_owner[owner]] for owner in owners}
            result = _PassResult(owner_R, losses_R.detach().to(dtype), pass_gradients)
            result_by_first_row[pass_rows[0].owner, pass_rows[0].index_in_batch] = result

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, run_pass, failures, before_repeat=result_by_first_row.clear)
        losses_K = torch.zeros(len(trials), dtype=dtype, device=device)
        trial_gradients = [[torch.zeros_like(tensor) for tensor in owner_tensors] for owner_tensors in tensors_by_owner]
        for _, result in sorted(result_by_first_row.items()):  # always in the same order, whichever pass ended first
            losses_K.index_add_(0, result.owner_R, result.losses_R)
            for owner, owner_gradients in result.gradients_by_owner.items():
                for gradient_sum, gradient in zip(trial_gradients[owner], owner_gradients, strict=True):
                    gradient_sum += gradient
        return losses_K, trial_gradients

    def _row_losses(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows, labels: Sequence[np.ndarray]
    ) -> Tensor:
        """Return the cross-entropy of each row over its own trial's classes, `[R]`."""
        logits_RC, logit_columns_by_owner = self._logits(trials, soft_prompts, rows)
        row_indices_by_logit_columns: dict[tuple[int, ...], list[int]] = {}  # rows of trials with the same label words
        for row_index, row in enumerate(rows):
            row_indices_by_logit_columns.setdefault(tuple(logit_columns_by_owner[row.owner]), []).append(row_index)
        losses_R = logits_RC.new_zeros(len(rows))
        for label_columns, indices in row_indices_by_logit_columns.items():
            classes = to_device([int(labels[rows[i].owner][rows[i].index_in_batch]) for i in indices], logits_RC.device)
            row_indices = to_device(indices, logits_RC.device)
            losses = cross_entropy(logits_RC[row_indices][:, list(label_columns)], classes, reduction="none")
            losses_R = losses_R.index_copy(0, row_indices, losses)
        return losses_R

    # --- evaluations --------------------------------------------------------------------------------------------
    def _evaluate(self, trials: Sequence[Trial], failures: dict[Trial, Exception]) -> dict[Trial, Evaluation | None]:
        """Evaluate trials on their selection examples, all in the same passes."""
        with torch.no_grad():
            soft_prompt_by_trial = _for_each(trials, _compute_soft_prompt, failures)
        trials, soft_prompts = list(soft_prompt_by_trial), list(soft_prompt_by_trial.values())
        logits_by_owner = [np.empty((len(trial.data.selection), len(trial.label_ids))) for trial in trials]
        rows = _make_rows(trial.data.selection.token_ids for trial in trials)

        def run_pass(pass_rows: Rows) -> None:
            with torch.inference_mode():
                logits_RC, logit_columns_by_owner = self._logits(trials, soft_prompts, pass_rows)
            for row, row_logits in zip(pass_rows, logits_RC.cpu().numpy(), strict=True):
                logits_by_owner[row.owner][row.index_in_batch] = row_logits[logit_columns_by_owner[row.owner]]

        def record_evaluation(trial: Trial) -> Evaluation | None:
            selection, trial_logits = trial.data.selection, logits_by_owner[trials.index(trial)]
            return trial.record_evaluation(Predictions.of(selection, trial_logits))

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, run_pass, failures)
        return _for_each([trial for trial in trials if trial not in failures], record_evaluation, failures)

    # --- passes -------------------------------------------------------------------------------------------------
    def _cache_texts_ahead(self, rows: Rows, soft_prompts: SoftPrompts) -> None:
        """Compute, with all lanes, the keys and values that the backbone's store of texts lacks. All trials share the
        store. This comes first, because the first pass with a new text would make the other passes wait."""
        texts_by_owner: dict[int, list[tuple[int, ...]]] = {}
        for row in rows:
            texts_by_owner.setdefault(row.owner, []).append(row.token_ids)
        uncached_texts = {
            text
            for owner, texts in texts_by_owner.items()
            for text in self._backbone.uncached_texts(soft_prompts[owner], texts)
        }
        sorted_texts = sorted(uncached_texts, key=lambda text: (len(text), text))
        lane_count = min(self._lanes.count, len(sorted_texts))
        texts_of_lanes = [sorted_texts[lane::lane_count] for lane in range(lane_count)]
        with contextlib.suppress(Exception):  # the pass that needs the text will raise the error, and fail alone
            self._lanes.run(self._backbone.cache_texts, texts_of_lanes)

    def _run_rows(
        self,
        trials: Sequence[Trial],
        rows: Rows,
        soft_prompts: SoftPrompts,
        run_pass: Callable[[Rows], None],
        failures: dict[Trial, Exception],
        before_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """Run rows in passes. The trials of a pass that raises are added to `failures`. Then `before_repeat` is called,
        and the passes are repeated without these trials."""
        token_counts_K = np.zeros(len(soft_prompts))
        for row, token_count in zip(rows, count_row_tokens(rows, soft_prompts, self._backbone), strict=True):
            token_counts_K[row.owner] += token_count
        token_shares_K = (token_counts_K / max(1.0, token_counts_K.sum())).tolist()
        self._token_share_by_trial = dict(zip(trials, token_shares_K, strict=True))
        while rows:
            errors_by_owner = self._run_passes(rows, soft_prompts, run_pass)
            if not errors_by_owner:
                return
            failures.update((trials[owner], error) for owner, error in errors_by_owner.items())
            rows = [row for row in rows if row.owner not in errors_by_owner]
            before_repeat()

    def _run_passes(
        self, rows: Rows, soft_prompts: SoftPrompts, run_pass: Callable[[Rows], None]
    ) -> dict[int, Exception]:
        """Run rows in passes until one raises. Return its exception for each owner with rows in it, else `{}`."""
        waiting_passes = divide_into_passes(
            rows, soft_prompts, self._backbone, max_pass_tokens=self.max_pass_tokens, lane_count=self._lanes.count
        )
        errors_by_owner: dict[int, Exception] = {}

        def run_lane() -> None:
            while waiting_passes and not errors_by_owner:
                with self._lock:
                    if not waiting_passes:  # another lane took the last pass
                        return
                    pass_rows = waiting_passes.popleft()
                try:
                    run_pass(pass_rows)
                except Exception as error:
                    middle = len(pass_rows) // 2
                    with self._lock:
                        if middle and memory.is_out_of_memory(error) and self.max_pass_tokens > _MIN_PASS_TOKENS:
                            self.max_pass_tokens //= 2
                            waiting_passes.extendleft((pass_rows[middle:], pass_rows[:middle]))
                            memory.release_unused()
                        else:
                            errors_by_owner.update((row.owner, error) for row in pass_rows)

        self._lanes.run(lambda _: run_lane(), range(min(self._lanes.count, len(waiting_passes))))
        return errors_by_owner

    def _logits(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows
    ) -> tuple[Tensor, dict[int, list[int]]]:
        """Return the logits of rows for the label words of all their trials, `[R, C]`, and each owner's columns."""
        owners = sorted({row.owner for row in rows})
        packed_prompts = PackedPrompts(
            prompts=[soft_prompts[owner] for owner in owners], prompt_indices=[owners.index(row.owner) for row in rows]
        )
        lengths = np.array([len(row.token_ids) for row in rows])
        padded_ids = np.full((len(rows), lengths.max()), self._backbone.pad_id, dtype=np.int64)
        for index, row in enumerate(rows):
            padded_ids[index, : lengths[index]] = row.token_ids
        ids_RT, lengths_R = torch.from_numpy(padded_ids), torch.from_numpy(lengths)
        label_ids_by_owner = {owner: trials[owner].label_ids_on_cpu for owner in owners}
        all_label_ids = sorted({label_id for ids in label_ids_by_owner.values() for label_id in ids})
        label_ids_C = to_device(all_label_ids, self._backbone.device)
        logits_RC = self._backbone.label_logits(packed_prompts, ids_RT, lengths_R, label_ids_C)
        return logits_RC, {owner: list(map(all_label_ids.index, ids)) for owner, ids in label_ids_by_owner.items()}


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


def _prompt_tensors(soft_prompt: SoftPrompt) -> list[Tensor]:
    return [soft_prompt.prompt] if soft_prompt.update is None else [soft_prompt.prompt, soft_prompt.update]


def _make_rows(texts_of_owners: Iterable[Iterable[tuple[int, ...]]]) -> list[Row]:
    """Return the texts of each trial as rows, in the order of the trials."""
    return [
        Row(owner, token_ids, index_in_batch)
        for owner, texts in enumerate(texts_of_owners)
        for index_in_batch, token_ids in enumerate(texts)
    ]
