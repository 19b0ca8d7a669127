"""Several trials in one forward and backward pass over one frozen backbone: the fast path, equal to `training.Trial`.

The backbone is frozen, so trials meet along the batch dimension only: their examples are stacked, each row with the
prompt of its own trial, and each trial receives exactly its own gradient. A trial keeps its own batches, learning
rate, optimiser, seed and step; trials enter and leave between steps.

    engine = Engine()
    engine.admit(Trial(config)) ...
    for trial, outcome in engine:         # at every trial's own evaluations; `engine.evict(trial)` stops one early
        ...
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lopt import memory
from lopt.backbones import Backbone
from lopt.batches import on_device
from lopt.lanes import Lanes
from lopt.metrics import Predictions
from lopt.passes import Row, Rows, Softs, cut, sized
from lopt.records import Evaluation
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from lopt.training import Trial

# What has become of a trial: an evaluation; None, it has diverged; what it raised.
Outcome = Evaluation | None | Exception

MOST_TOKENS = {"cpu": 2048, "cuda": 16384}  # in one pass; halved when memory runs out
_FEWEST_TOKENS = 64
T = TypeVar("T")


class Engine:
    """Trials in training over one backbone.

    Args:
        most_tokens: in one pass; None takes what suits the device. Where memory runs out the pass is split, and the
            size that fits is kept from then on (`most_tokens` holds it).
        lanes: passes that run side by side (`lopt.lanes`); None takes what suits the backbone.

    Raises:
        ValueError: `admit` of a trial that changes weights or has dropout, or of another backbone.
    """

    _backbone: Backbone  # the first trial's, and its lanes
    _lanes: Lanes

    def __init__(self, *, most_tokens: int | None = None, lanes: int | None = None) -> None:
        self.trials: list[Trial] = []
        self._wanted_lanes = lanes
        self._lock = threading.Lock()  # between lanes
        self.most_tokens = most_tokens or 0  # until the first trial tells the device
        self._shares: dict[Trial, float] = {}  # of the tokens of the last step, or the last evaluations

    def admit(self, trial: Trial) -> None:
        """Takes a trial in; it takes part from the next step on."""
        if trial.config.dropout:
            raise ValueError(f"dropout is {trial.config.dropout:g}, and its masks are the trial's own: train it alone")
        if trial.soft_prompt() is None:
            raise ValueError(
                f"{trial.config.method} changes the model's weights, which cannot be shared: train it alone"
            )
        if not hasattr(self, "_backbone"):
            self._backbone, self._lanes = trial.backbone, Lanes(trial.backbone, self._wanted_lanes)
            self.most_tokens = self.most_tokens or MOST_TOKENS[self._backbone.device.type]
        if trial.backbone is not self._backbone:
            raise ValueError(
                f"this engine runs on {self._backbone.name}; the trial's backbone is another copy or model "
                f"({trial.backbone.name})"
            )
        self.trials.append(trial)

    def evict(self, trial: Trial) -> None:
        """Lets a trial go; what it has trained stays with it."""
        self.trials.remove(trial)

    def __iter__(self) -> Iterator[tuple[Trial, Outcome]]:
        """Trains until no trial is left, yielding each trial at each of its evaluations; one that has diverged comes
        with None, one that has failed with what it raised. A trial that is over leaves by itself, before it is
        yielded; between two yields any may enter or leave."""
        while self.trials:
            yield from self.advance()

    def advance(self) -> list[tuple[Trial, Outcome]]:
        """One update of every trial and the evaluations that are due: what iterating yields."""
        began, self._shares = time.perf_counter(), {}
        failed = self.step()
        going = [trial for trial in self.trials if trial not in failed]
        paused = _each(going, lambda trial: trial.pause(), failed)
        stepped = time.perf_counter()
        for trial, share in self._shares.items():
            trial.train_time_s += share * (stepped - began)
        judged = self._judged([trial for trial, due in paused.items() if due], failed)
        for trial, share in self._shares.items():
            trial.evaluation_time_s += share * (time.perf_counter() - stepped)
        outcomes = {**judged, **{trial: None for trial in paused if trial.diverged}, **failed}
        for trial in [trial for trial in self.trials if trial.over or trial in failed]:
            self.evict(trial)
        return list(outcomes.items())

    def step(self) -> dict[Trial, Exception]:
        """One update of every trial, each on its own next batch. What a trial's own part of it raises, or a pass that
        it is in, is its failure alone: returned, for `advance` to let the trial go."""
        failed: dict[Trial, Exception] = {}
        begun = _each(self.trials, lambda trial: (trial.draw(), _soft(trial)), failed)
        if not begun:
            return failed
        trials, drawn = list(begun), [positions for positions, _ in begun.values()]
        made = [_tensors(soft_prompt) for _, soft_prompt in begun.values()]  # with the graph to the factors
        soft_prompts = [
            soft_prompt.map(lambda tensor: tensor.detach().requires_grad_()) for _, soft_prompt in begun.values()
        ]
        leaves = [_tensors(soft_prompt) for soft_prompt in soft_prompts]
        like = leaves[0][0]
        sizes_K = on_device([len(positions) for positions in drawn], like.device).to(like.dtype)
        train = [trial.data.train for trial in trials]
        rows = _rows([part.token_ids[i] for i in positions] for part, positions in zip(train, drawn, strict=True))
        labels = [part.labels[positions] for part, positions in zip(train, drawn, strict=True)]
        warm_start: dict[tuple[int, int], tuple[Tensor, Tensor, dict[int, list[Tensor]]]] = {}  # by a pass's first row

        def learn(some: Rows) -> None:
            owners = sorted({row.owner for row in some})
            wanted = [tensor for owner in owners for tensor in leaves[owner]]
            owner_R = on_device([row.owner for row in some], like.device)
            shares_R = self._row_losses(trials, soft_prompts, some, labels) / sizes_K[owner_R]
            # All of a pass or, when memory runs out, nothing of it.
            of_wanted = iter(torch.autograd.grad(shares_R.sum(), wanted))
            of_owners = {owner: [next(of_wanted) for _ in leaves[owner]] for owner in owners}
            warm_start[some[0].owner, some[0].place] = owner_R, shares_R.detach().to(like.dtype), of_owners

        def update(trial: Trial) -> None:
            place = trials.index(trial)
            trial.clear_gradients()
            torch.autograd.backward(made[place], gradients[place])
            trial.apply_gradients(losses_K[place])

        self._read_ahead(rows, soft_prompts)
        self._surviving(trials, rows, soft_prompts, learn, failed, again=warm_start.clear)
        gradients = [[torch.zeros_like(t) for t in tensors] for tensors in leaves]
        losses_K = torch.zeros(len(trials), dtype=like.dtype, device=like.device)
        for _, (owner_R, shares_R, of_owners) in sorted(warm_start.items()):  # in one order, whoever was first
            losses_K.index_add_(0, owner_R, shares_R)
            for owner, found in of_owners.items():
                for gradient, part in zip(gradients[owner], found, strict=True):
                    gradient += part
        _each([trial for trial in trials if trial not in failed], update, failed)
        return failed

    def _judged(self, ready: Sequence[Trial], failed: dict[Trial, Exception]) -> dict[Trial, Outcome]:
        """Evaluates trials on their selection examples, all in the same passes."""
        with torch.no_grad():
            made = _each(ready, _soft, failed)
        ready, soft_prompts = list(made), list(made.values())
        logits = [np.empty((len(t.data.selection), len(t.label_ids))) for t in ready]
        rows = _rows(trial.data.selection.token_ids for trial in ready)

        def predict(some: Rows) -> None:
            with torch.inference_mode():
                found_RC, columns = self._logits(ready, soft_prompts, some)
            found = found_RC.cpu().numpy()
            for row, row_logits in zip(some, found, strict=True):
                logits[row.owner][row.place] = row_logits[columns[row.owner]]

        def evaluate(trial: Trial) -> Evaluation | None:
            selection = trial.data.selection
            return trial.record_evaluation(
                Predictions(selection.example_ids, selection.labels, logits[ready.index(trial)])
            )

        self._read_ahead(rows, soft_prompts)
        self._surviving(ready, rows, soft_prompts, predict, failed)
        return dict(_each([trial for trial in ready if trial not in failed], evaluate, failed))

    def _surviving(
        self,
        trials: Sequence[Trial],
        rows: Rows,
        soft_prompts: Softs,
        run: Callable[[Rows], None],
        failed: dict[Trial, Exception],
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """Runs rows in passes. An exception fails the trials of its pass; the others begin `again`, without them."""
        tokens = np.zeros(len(soft_prompts))
        for row, row_tokens in sized(rows, soft_prompts, self._backbone):
            tokens[row.owner] += row_tokens
        self._shares = dict(zip(trials, (tokens / max(1.0, tokens.sum())).tolist(), strict=True))
        while rows:
            broken = self._in_passes(rows, soft_prompts, run)
            if not broken:
                return
            failed.update((trials[owner], error) for owner, error in broken.items())
            rows = [row for row in rows if row.owner not in broken]
            again()

    def _read_ahead(self, rows: Rows, soft_prompts: Softs) -> None:
        """What every trial sees alike of a text is computed before the passes, by all lanes: the pass that met it first
        would keep the others waiting."""
        texts: dict[int, list[tuple[int, ...]]] = {}
        for row in rows:
            texts.setdefault(row.owner, []).append(row.token_ids)
        unread = {text for owner, some in texts.items() for text in self._backbone.unread(soft_prompts[owner], some)}
        ordered = sorted(unread, key=lambda text: (len(text), text))
        parts = [part for lane in range(self._lanes.count) if (part := ordered[lane :: self._lanes.count])]
        with contextlib.suppress(Exception):  # the pass that meets the text meets it again, and fails alone
            self._lanes.each(self._backbone.read, parts)

    def _in_passes(self, rows: Rows, soft_prompts: Softs, run: Callable[[Rows], None]) -> dict[int, Exception]:
        """Runs rows in passes. Returns what passes have raised, by the owners of their rows."""
        waiting = cut(rows, soft_prompts, self._backbone, most_tokens=self.most_tokens, lanes=self._lanes.count)
        broken: dict[int, Exception] = {}

        def lane() -> None:
            while waiting and not broken:
                with self._lock:
                    if not waiting:
                        return
                    some = waiting.popleft()
                try:
                    run(some)
                except Exception as error:
                    half = len(some) // 2
                    with self._lock:
                        if half and memory.ran_out(error) and self.most_tokens > _FEWEST_TOKENS:
                            self.most_tokens //= 2
                            waiting.extendleft((some[half:], some[:half]))
                            memory.free()
                        else:
                            broken.update((row.owner, error) for row in some)

        self._lanes.each(lambda _: lane(), range(min(self._lanes.count, len(waiting))))
        return broken

    def _row_losses(
        self, trials: Sequence[Trial], soft_prompts: Softs, rows: Rows, labels: Sequence[np.ndarray]
    ) -> Tensor:
        """Cross-entropy of each row over its own trial's classes, `[R]`."""
        logits_RC, columns = self._logits(trials, soft_prompts, rows)
        by_classes: dict[tuple[int, ...], list[int]] = {}
        for number, row in enumerate(rows):
            by_classes.setdefault(tuple(columns[row.owner]), []).append(number)
        losses_R = logits_RC.new_zeros(len(rows))
        for classes, numbers in by_classes.items():
            gold = on_device([int(labels[rows[n].owner][rows[n].place]) for n in numbers], logits_RC.device)
            places = on_device(numbers, logits_RC.device)
            found = cross_entropy(logits_RC[places][:, list(classes)], gold, reduction="none")
            losses_R = losses_R.index_copy(0, places, found)
        return losses_R

    def _logits(self, trials: Sequence[Trial], soft_prompts: Softs, rows: Rows) -> tuple[Tensor, dict[int, list[int]]]:
        """Logits `[R, C]` of the label words of all trials among the rows, and each trial's columns in them."""
        owners = sorted({row.owner for row in rows})
        packed = PackedPrompts(
            prompts=[soft_prompts[owner] for owner in owners], owners=[owners.index(row.owner) for row in rows]
        )
        lengths = np.array([len(row.token_ids) for row in rows])
        ids = np.full((len(rows), lengths.max()), self._backbone.pad_id, dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : lengths[number]] = row.token_ids
        ids_RT, lengths_R = torch.from_numpy(ids), torch.from_numpy(lengths)
        words = {owner: trials[owner].label_tokens for owner in owners}
        every = sorted({word for some in words.values() for word in some})
        label_ids = on_device(every, self._backbone.device)
        logits_RC = self._backbone.label_logits(packed, ids_RT, lengths_R, label_ids)
        return logits_RC, {owner: [every.index(word) for word in some] for owner, some in words.items()}


def _each(trials: Iterable[Trial], act: Callable[[Trial], T], failed: dict[Trial, Exception]) -> dict[Trial, T]:
    """What `act` makes of each trial; what it raises is that trial's failure, and the others go on."""
    made = {}
    for trial in trials:
        try:
            made[trial] = act(trial)
        except Exception as error:
            failed[trial] = error
    return made


def _soft(trial: Trial) -> SoftPrompt:
    soft_prompt = trial.soft_prompt()
    assert soft_prompt is not None, "the engine admits no other trial"
    return soft_prompt


def _tensors(soft_prompt: SoftPrompt) -> list[Tensor]:
    return [soft_prompt.prompt] if soft_prompt.update is None else [soft_prompt.prompt, soft_prompt.update]


def _rows(texts: Iterable[Iterable[tuple[int, ...]]]) -> list[Row]:
    """The examples of each trial, in the order of the trials."""
    return [Row(owner, ids, place) for owner, some in enumerate(texts) for place, ids in enumerate(some)]
