"""The settings of a trial as plain data. Only their types and ranges are checked here."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopt.field_types import field_types
from lopt.registry import did_you_mean

LARGEST_SEED = 2**32 - 1  # the largest that numpy.random.RandomState takes
_VALID_WORDS = {
    "precision": ("auto", "bf16", "fp32", "fp64"),
    "optimizer": ("adafactor", "adamw"),
    "schedule": ("constant", "linear"),
    "holdout": ("train", "validation"),
}
_POSITIVE, _FRACTION = ("above 0", lambda value: value > 0), ("0 or more and below 1", lambda value: 0 <= value < 1)
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {  # each bound in words, and as a function that checks it
    "learning_rate": _POSITIVE,
    "clip_norm": _POSITIVE,
    "weight_decay": ("0 or more", lambda value: value >= 0),
    "warmup": _FRACTION,
    "dropout": _FRACTION,
}
_WHOLE_NUMBER_BOUNDS = {"seed": (0, LARGEST_SEED), "data_seed": (0, LARGEST_SEED), "restarts": (0, 100)}


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """Everything that determines a trial's result, and nothing else. `None` stands for the default of the method, task
    or backbone, which `TrialConfig` fills in.

    Args:
        method: name of a module in `lopt/methods/`.
        task: name of a module in `lopt/tasks/`, or path of a folder with a `task.toml`.
        backbone: a name that `lopt/backbones/` knows, a local folder, or a hub name.
        length: prompt length n, in virtual tokens; None for methods without a prompt.
        rank: rank r, for the methods that have one.
        learning_rate: learning rate of the optimiser. None takes it from the method's recipe. The same holds for
            optimizer, schedule, warmup and weight_decay.
        optimizer: "adafactor" or "adamw".
        weight_decay: weight decay of the optimiser, 0 or more.
        seed: seed of the initial values and of the batch order.
        options: the method's own settings (see its `OPTIONS`, or docs/reference.md).
        schedule: "constant", or "linear" to 0 at `max_steps`.
        warmup: share of the steps, in [0, 1), in which the learning rate rises linearly.
        clip_norm: the largest Euclidean norm that a step's gradient may have, over all trained values together.
        dropout: rate, in [0, 1), of every dropout layer of the backbone, in training steps only. The masks depend on
            seed and step (and on the part of the batch, if a batch is split because memory runs out). So a trial with
            dropout shares no passes with others.
        batch_size: number of examples in a step.
        restarts: how often training begins anew from other initial values, at most, if the training loss shows that a
            start has learnt nothing (`lopt.restarts`).
        max_steps: number of steps in a whole trial. Each step is one update.
        eval_every: number of steps between two evaluations on the selection examples. The last step has one too.
        template: text with `{column}` fields. The label is read after its last token, or at `{mask}`.
        label_words: one word for each class, in the order of the classes.
        max_tokens: the largest number of tokens of template and text together. Longer texts are cut, the template never
            is. None stands for the backbone's window less the prompt.
        train_min_tokens, train_max_tokens: training texts with fewer or more tokens than this, template included, are
            left out. Selection and reported examples are never left out.
        train_examples, selection_examples, test_examples: sizes of stratified subsets, drawn by `data_seed`. None takes
            all examples.
        held_out_examples: size of the stratified subset of the held-out part on which a complete trial is scored, to
            choose the winner (`lopt.final_scores`). None takes the whole part.
        shots: number of examples of each class to train on, and to select on unless selection_examples is given.
        holdout: where the selection examples come from: "train" (min(5,000, 10 %) held out of the training split) or
            "validation" (one half of the reported split; the other half is reported, as in DePT and Compacter).
        metric: name of a module in `lopt/metrics/`. Its score on the selection examples selects three things: the step
            that a trial keeps, the trials that early stopping lets continue, and the winner of a search. The report
            compares trials by it. None takes the task's metric. A class may follow after a colon, as in "f1:spam".
        data_seed: seed of the held-out part and of the subsets. It is the same for all trials of a sweep, so that they
            are compared on the same examples.
        precision: precision of the backbone. "auto" is bf16 if the hardware has it, else fp32. Trained values and the
            optimiser's state are fp32 (fp64 with "fp64", which is for tests).
        data_revision, model_revision: versions of data and weights, filled in by `lopt.resolve.resolve`.

    Raises:
        ValueError: a value is invalid. The message names the field, its value and what is valid.
    """

    method: str
    task: str
    learning_rate: float | None = None
    backbone: str = "embedded"
    length: int | None = None
    rank: int | None = None
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str | None = None
    schedule: str | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    clip_norm: float = 1.0
    dropout: float = 0.0
    batch_size: int = 16
    restarts: int = 0
    max_steps: int = 5000
    eval_every: int = 100
    template: str | None = None
    label_words: tuple[str, ...] | None = None
    max_tokens: int | None = None
    train_min_tokens: int | None = None
    train_max_tokens: int | None = None
    train_examples: int | None = None
    selection_examples: int | None = None
    held_out_examples: int | None = None
    test_examples: int | None = None
    shots: int | None = None
    holdout: str = "train"
    metric: str | None = None
    data_seed: int = 42
    precision: str = "auto"
    data_revision: str | None = None
    model_revision: str | None = None

    def __post_init__(self) -> None:
        for name, field_type in field_types(TrialSettings).items():
            value = getattr(self, name)
            if value is None and type(None) in field_type.types:
                continue
            if float in field_type.types:
                _check_real_number(name, value, *_BOUNDS[name])
            elif int in field_type.types:
                _check_whole_number(name, value, *_WHOLE_NUMBER_BOUNDS.get(name, (1,)))
            elif name in _VALID_WORDS and value not in (valid := _VALID_WORDS[name]):
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}.{did_you_mean(value, valid)}")
            elif name in ("data_revision", "model_revision") and not isinstance(value, str):
                raise ValueError(f"{name} is {value!r}; give text, or leave it out")
        if not isinstance(self.options, Mapping):
            raise ValueError(f"options is {self.options!r}; give a mapping of the method's options")
        if not isinstance(self.label_words, list | tuple | None):  # in a text, each letter would count as a word
            raise ValueError(f"label_words is {self.label_words!r}; give a list of texts")
        if self.shots is not None and self.train_examples is not None:
            raise ValueError(f"shots is {self.shots} and train_examples {self.train_examples}: give only one of them")
        if not isinstance(self.backbone, str) or not self.backbone:
            raise ValueError(f"backbone is {self.backbone!r}; give a name, a local folder or a hub name")


def _check_whole_number(name: str, value: Any, minimum: int, maximum: int = 2**31 - 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} is {value!r}; give a whole number, {minimum} or more")
    if value > maximum:  # the message omits the value, which may have thousands of digits
        raise ValueError(f"{name} is above {maximum:,}; give a whole number, {minimum} to {maximum:,}")


def _check_real_number(name: str, value: Any, valid: str, is_valid: Callable[[float], bool]) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not is_number or not is_valid(value):
        raise ValueError(f"{name} is {value!r}; give a number {valid}")
