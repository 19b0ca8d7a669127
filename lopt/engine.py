"""Packed trials: several trials in one forward and backward pass over one frozen backbone. This is the fast path; it
gives the same results as `training.Trial`.

The backbone is frozen, so trials meet along the batch dimension only. Their texts are stacked as rows of a pass, each
row with the soft prompt of its own trial, and each trial receives exactly its own gradient. A trial keeps its own
batches, learning rate, optimiser, seed and step. Trials enter and leave between steps.

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
from lopt.passes import Row, Rows, SoftPrompts, divide_into_passes, token_counts
from lopt.records import Evaluation
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from lopt.training import Trial

# What the engine reports of a trial: its evaluation; None if it has diverged; the exception if it has failed.
Outcome = Evaluation | None | Exception

MOST_TOKENS = {"cpu": 2048, "cuda": 16384}  # in one pass; halved when memory runs out
_MIN_PASS_TOKENS = 64  # passes are not halved below this size
T = TypeVar("T")


class _PassResult(NamedTuple):
    """What one pass of a step computes for the trials whose rows it holds."""

    owner_R: Tensor  # index of each row's trial
    losses_R: Tensor  # each row's part of its trial's mean loss
    gradients: dict[int, list[Tensor]]  # by owner, on the tensors of its soft prompt


class Engine:
    """Trials in training over one backbone.

    Args:
        most_tokens: the largest number of tokens in one pass. None chooses for the device. If memory runs out, the
            pass is split, and later passes use the size that fits (the attribute `most_tokens` holds it).
        lanes: number of passes that run side by side (`lopt.lanes`). None chooses for the backbone.
    """

    _backbone: Backbone  # set by the first trial, as are the lanes
    _lanes: Lanes

    def __init__(self, *, most_tokens: int | None = None, lanes: int | None = None) -> None:
        self.trials: list[Trial] = []
        self.most_tokens = most_tokens or 0  # 0 until the first trial shows which device is used
        self._lane_count = lanes
        self._lock = threading.Lock()  # between lanes
        self._token_shares: dict[Trial, float] = {}  # each trial's share of the tokens of the last passes

    def admit(self, trial: Trial) -> None:
        """Add a trial. It takes part from the next step on.

        Raises:
            ValueError: the trial changes weights, has dropout, or has another backbone.
        """
        if trial.config.dropout:
            raise ValueError(f"dropout is {trial.config.dropout:g}, and its masks are the trial's own: train it alone")
        if trial.soft_prompt() is None:
            raise ValueError(
                f"{trial.config.method} changes the model's weights, which cannot be shared: train it alone"
            )
        if not hasattr(self, "_backbone"):
            self._backbone, self._lanes = trial.backbone, Lanes(trial.backbone, self._lane_count)
            self.most_tokens = self.most_tokens or MOST_TOKENS[self._backbone.device.type]
        if trial.backbone is not self._backbone:
            raise ValueError(
                f"this engine runs on {self._backbone.name}; the trial's backbone is another copy or model "
                f"({trial.backbone.name})"
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
        """Update every trial once and evaluate those that are due. Return the pairs that iterating would yield."""
        step_began, self._token_shares = time.perf_counter(), {}
        failed = self.step()
        updated = [trial for trial in self.trials if trial not in failed]
        is_due = _for_each(updated, lambda trial: trial.close_interval(), failed)
        step_ended = time.perf_counter()
        for trial, share in self._token_shares.items():
            trial.train_time_s += share * (step_ended - step_began)
        evaluations = self._evaluate([trial for trial, due in is_due.items() if due], failed)
        for trial, share in self._token_shares.items():
            trial.evaluation_time_s += share * (time.perf_counter() - step_ended)
        diverged = {trial: None for trial in is_due if trial.diverged}
        outcomes: dict[Trial, Outcome] = {**evaluations, **diverged, **failed}
        for trial in [trial for trial in self.trials if trial.is_over or trial in failed]:
            self.evict(trial)
        return list(outcomes.items())

    # --- one step -----------------------------------------------------------------------------------------------
    def step(self) -> dict[Trial, Exception]:
        """Update every trial once, each on its own next batch.

        Returns:
            The trials that failed, with their exceptions, for `advance` to remove. A trial fails alone if its own part
            of the step raises. If a pass raises, the trials whose rows are in it fail.
        """
        failed: dict[Trial, Exception] = {}
        started = _for_each(self.trials, lambda trial: (trial.draw_batch(), _soft_prompt(trial)), failed)
        if not started:
            return failed
        trials, batches = list(started), [positions for positions, _ in started.values()]
        soft_prompts = [soft_prompt for _, soft_prompt in started.values()]
        # The passes see copies that are cut off from the factors. Their gradients then go back through the originals.
        copies = [soft_prompt.map(lambda tensor: tensor.detach().requires_grad_()) for soft_prompt in soft_prompts]
        losses_K, gradients = self._losses_and_gradients(trials, batches, copies, failed)

        def update(trial: Trial) -> None:
            index = trials.index(trial)
            trial.clear_gradients()
            torch.autograd.backward(_tensors(soft_prompts[index]), gradients[index])
            trial.apply_gradients(losses_K[index])

        _for_each([trial for trial in trials if trial not in failed], update, failed)
        return failed

    def _losses_and_gradients(
        self,
        trials: Sequence[Trial],
        batches: Sequence[np.ndarray],
        soft_prompts: SoftPrompts,
        failed: dict[Trial, Exception],
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Mean loss of each trial's batch `[K]`, and its gradient on each tensor of the trial's soft prompt."""
        splits = [trial.data.train for trial in trials]
        rows = _rows([split.token_ids[i] for i in batch] for split, batch in zip(splits, batches, strict=True))
        labels = [split.labels[batch] for split, batch in zip(splits, batches, strict=True)]
        tensors = [_tensors(soft_prompt) for soft_prompt in soft_prompts]
        device, dtype = tensors[0][0].device, tensors[0][0].dtype
        sizes_K = to_device([len(batch) for batch in batches], device).to(dtype)
        results: dict[tuple[int, int], _PassResult] = {}  # by owner and position of the pass's first row

        def differentiate(pass_rows: Rows) -> None:
            owners = sorted({row.owner for row in pass_rows})
            inputs = [tensor for owner in owners for tensor in tensors[owner]]
            owner_R = to_device([row.owner for row in pass_rows], device)
            losses_R = self._row_losses(trials, soft_prompts, pass_rows, labels) / sizes_K[owner_R]
            # One call for the whole pass, so that a pass that runs out of memory leaves no partial gradients.
            next_gradients = iter(torch.autograd.grad(losses_R.sum(), inputs))
            pass_gradients = {owner: [next(next_gradients) for _ in tensors[owner]] for owner in owners}
            first = pass_rows[0]
            results[first.owner, first.position] = _PassResult(owner_R, losses_R.detach().to(dtype), pass_gradients)

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, differentiate, failed, before_repeat=results.clear)
        losses_K = torch.zeros(len(trials), dtype=dtype, device=device)
        gradients = [[torch.zeros_like(tensor) for tensor in trial_tensors] for trial_tensors in tensors]
        for _, result in sorted(results.items()):  # always in one order, whichever pass ended first
            losses_K.index_add_(0, result.owner_R, result.losses_R)
            for owner, owner_gradients in result.gradients.items():
                for total, gradient in zip(gradients[owner], owner_gradients, strict=True):
                    total += gradient
        return losses_K, gradients

    def _row_losses(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows, labels: Sequence[np.ndarray]
    ) -> Tensor:
        """Cross-entropy of each row over its own trial's classes, `[R]`."""
        logits_RC, columns = self._logits(trials, soft_prompts, rows)
        rows_by_columns: dict[tuple[int, ...], list[int]] = {}  # rows whose trials have the same label words
        for index, row in enumerate(rows):
            rows_by_columns.setdefault(tuple(columns[row.owner]), []).append(index)
        losses_R = logits_RC.new_zeros(len(rows))
        for label_columns, indices in rows_by_columns.items():
            gold = to_device([int(labels[rows[i].owner][rows[i].position]) for i in indices], logits_RC.device)
            row_indices = to_device(indices, logits_RC.device)
            losses = cross_entropy(logits_RC[row_indices][:, list(label_columns)], gold, reduction="none")
            losses_R = losses_R.index_copy(0, row_indices, losses)
        return losses_R

    # --- evaluations --------------------------------------------------------------------------------------------
    def _evaluate(self, trials: Sequence[Trial], failed: dict[Trial, Exception]) -> dict[Trial, Evaluation | None]:
        """Evaluate trials on their selection examples, all in the same passes."""
        with torch.no_grad():
            computed = _for_each(trials, _soft_prompt, failed)
        trials, soft_prompts = list(computed), list(computed.values())
        logits = [np.empty((len(trial.data.selection), len(trial.label_ids))) for trial in trials]
        rows = _rows(trial.data.selection.token_ids for trial in trials)

        def predict(pass_rows: Rows) -> None:
            with torch.inference_mode():
                logits_RC, columns = self._logits(trials, soft_prompts, pass_rows)
            for row, row_logits in zip(pass_rows, logits_RC.cpu().numpy(), strict=True):
                logits[row.owner][row.position] = row_logits[columns[row.owner]]

        def record(trial: Trial) -> Evaluation | None:
            selection, trial_logits = trial.data.selection, logits[trials.index(trial)]
            return trial.record_evaluation(Predictions(selection.example_ids, selection.labels, trial_logits))

        self._cache_texts_ahead(rows, soft_prompts)
        self._run_rows(trials, rows, soft_prompts, predict, failed)
        return _for_each([trial for trial in trials if trial not in failed], record, failed)

    # --- passes -------------------------------------------------------------------------------------------------
    def _cache_texts_ahead(self, rows: Rows, soft_prompts: SoftPrompts) -> None:
        """Before the passes, compute in all lanes the text states that the backbone keeps for all trials. Otherwise the
        first pass that meets a text would keep the other passes waiting."""
        texts: dict[int, list[tuple[int, ...]]] = {}
        for row in rows:
            texts.setdefault(row.owner, []).append(row.token_ids)
        uncached_texts = {
            text
            for owner, own_texts in texts.items()
            for text in self._backbone.uncached_texts(soft_prompts[owner], own_texts)
        }
        ordered = sorted(uncached_texts, key=lambda text: (len(text), text))
        parts = [part for lane in range(self._lanes.count) if (part := ordered[lane :: self._lanes.count])]
        with contextlib.suppress(Exception):  # the pass that needs the text raises it again, and fails alone
            self._lanes.run(self._backbone.cache_texts, parts)

    def _run_rows(
        self,
        trials: Sequence[Trial],
        rows: Rows,
        soft_prompts: SoftPrompts,
        run_pass: Callable[[Rows], None],
        failed: dict[Trial, Exception],
        before_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """Run rows in passes. If a pass raises, its trials have failed; `before_repeat` is called, and the passes are
        repeated without these trials."""
        tokens = np.zeros(len(soft_prompts))
        for row, row_tokens in zip(rows, token_counts(rows, soft_prompts, self._backbone), strict=True):
            tokens[row.owner] += row_tokens
        self._token_shares = dict(zip(trials, (tokens / max(1.0, tokens.sum())).tolist(), strict=True))
        while rows:
            errors = self._run_passes(rows, soft_prompts, run_pass)
            if not errors:
                return
            failed.update((trials[owner], error) for owner, error in errors.items())
            rows = [row for row in rows if row.owner not in errors]
            before_repeat()

    def _run_passes(
        self, rows: Rows, soft_prompts: SoftPrompts, run_pass: Callable[[Rows], None]
    ) -> dict[int, Exception]:
        """Run rows in passes. Return the exceptions of passes by the owners of their rows."""
        waiting = divide_into_passes(
            rows, soft_prompts, self._backbone, most_tokens=self.most_tokens, lanes=self._lanes.count
        )
        errors: dict[int, Exception] = {}

        def lane() -> None:
            while waiting and not errors:
                with self._lock:
                    if not waiting:  # another lane took the last pass
                        return
                    pass_rows = waiting.popleft()
                try:
                    run_pass(pass_rows)
                except Exception as error:
                    half = len(pass_rows) // 2
                    with self._lock:
                        if half and memory.ran_out(error) and self.most_tokens > _MIN_PASS_TOKENS:
                            self.most_tokens //= 2
                            waiting.extendleft((pass_rows[half:], pass_rows[:half]))
                            memory.free()
                        else:
                            errors.update((row.owner, error) for row in pass_rows)

        self._lanes.run(lambda _: lane(), range(min(self._lanes.count, len(waiting))))
        return errors

    def _logits(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows
    ) -> tuple[Tensor, dict[int, list[int]]]:
        """Logits `[R, C]` of rows for the label words of all their trials, and which columns belong to each trial."""
        owners = sorted({row.owner for row in rows})
        packed = PackedPrompts(
            prompts=[soft_prompts[owner] for owner in owners], owners=[owners.index(row.owner) for row in rows]
        )
        lengths = np.array([len(row.token_ids) for row in rows])
        ids = np.full((len(rows), lengths.max()), self._backbone.pad_id, dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : lengths[index]] = row.token_ids
        ids_RT, lengths_R = torch.from_numpy(ids), torch.from_numpy(lengths)
        label_ids_on_cpu = {owner: trials[owner].label_ids_on_cpu for owner in owners}
        all_tokens = sorted({token for tokens in label_ids_on_cpu.values() for token in tokens})
        label_ids = to_device(all_tokens, self._backbone.device)
        logits_RC = self._backbone.label_logits(packed, ids_RT, lengths_R, label_ids)
        columns = {owner: [all_tokens.index(token) for token in tokens] for owner, tokens in label_ids_on_cpu.items()}
        return logits_RC, columns


def _for_each(
    trials: Iterable[Trial], function: Callable[[Trial], T], failed: dict[Trial, Exception]
) -> dict[Trial, T]:
    """Call `function` on each trial and return the results. A trial for which it raises goes into `failed`; the others
    go on."""
    results = {}
    for trial in trials:
        try:
            results[trial] = function(trial)
        except Exception as error:
            failed[trial] = error
    return results


def _soft_prompt(trial: Trial) -> SoftPrompt:
    soft_prompt = trial.soft_prompt()
    assert soft_prompt is not None, "the engine admits no other trial"
    return soft_prompt


def _tensors(soft_prompt: SoftPrompt) -> list[Tensor]:
    return [soft_prompt.prompt] if soft_prompt.update is None else [soft_prompt.prompt, soft_prompt.update]


def _rows(batches: Iterable[Iterable[tuple[int, ...]]]) -> list[Row]:
    """The texts of each trial's batch as rows, in the order of the trials."""
    return [
        Row(owner, token_ids, position)
        for owner, batch in enumerate(batches)
        for position, token_ids in enumerate(batch)
    ]
