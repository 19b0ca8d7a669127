"""What a trial can be told: its settings as plain data, checked for kinds and ranges alone."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lopt.field_types import field_types
from lopt.registry import nearest

METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}  # with what a reader calls each
MOST_SEED = 2**32 - 1  # of numpy.random.RandomState
_WORDS = {
    "precision": ("auto", "bf16", "fp32", "fp64"),
    "optimizer": ("adafactor", "adamw"),
    "schedule": ("constant", "linear"),
    "holdout": ("train", "validation"),
    "metric": tuple(METRICS),
}
_ABOVE_0, _SHARE = ("above 0", lambda value: value > 0), ("0 or more and below 1", lambda value: 0 <= value < 1)
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": _ABOVE_0,
    "clip_norm": _ABOVE_0,
    "weight_decay": ("0 or more", lambda value: value >= 0),
    "warmup": _SHARE,
    "dropout": _SHARE,
}
_SEEDS = ("seed", "data_seed")


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """Everything that determines a trial's result, and nothing else. `None` stands for the default of the method, task
    or backbone, which `TrialConfig` fills in.

    Args:
        method: a module of `lopt/methods/`.
        task: a module of `lopt/tasks/`, or a folder with a `task.toml`.
        backbone: a name known to `lopt/backbones/`, a local folder, or a hub name.
        length: prompt length n, in virtual tokens; None for methods without a prompt.
        rank: rank r, for the methods that have one.
        learning_rate: of the optimiser; None is the method's recipe, as it is for optimizer, schedule, warmup and
            weight_decay.
        optimizer: "adafactor" or "adamw". weight_decay: its decay, 0 or more.
        seed: of initial values and batch order.
        options: the method's own settings (see its `OPTIONS`, or docs/reference.md).
        schedule: "constant", or "linear" to 0 at `max_steps`. warmup: share of the steps, in [0, 1), in which the rate
            rises linearly.
        clip_norm: the most that the Euclidean norm of a step's gradient, of all that is trained, may be.
        dropout: rate, in [0, 1), of every dropout that the backbone has, at training steps alone. Its masks are a
            function of seed and step (and of the part, where a batch goes in parts because memory runs out), so such a
            trial does not share its steps with others.
        batch_size: examples a step. max_steps: steps of a whole trial, each one update. eval_every: steps between two
            evaluations on the examples for selection; one more comes at the end.
        template: text with `{column}` fields; the label is read after its last token, or where `{mask}` stands.
        label_words: one a class, in the order of the classes.
        max_tokens: template and text are cut to so many tokens (the text is cut, never the template);
            None is the backbone's window less the prompt.
        train_min_tokens, train_max_tokens: training texts of fewer or more tokens, template included, are left out;
            selection and reported examples never are.
        train_examples, selection_examples, test_examples: stratified subsets, drawn by `data_seed`; None is all.
        shots: train on so many examples of each class, and select on as many unless selection_examples says otherwise.
        holdout: where the examples for selection come from: "train" (min(5,000, 10 %) held out of the training split)
            or "validation" (one half of the reported split; the other half is reported, as in DePT and Compacter).
        metric: what selects, on the examples for selection: the step that a trial keeps, the trials that early stopping
            lets go on, and the winner of a search. "accuracy" or "macro_f1", the unweighted mean of the classes' F1.
        data_seed: of the held-out part and of the subsets. The same for all trials
            of a sweep, so that they are compared on the same examples.
        precision: of the backbone; "auto" is bf16 where the hardware has it, else fp32. What is trained, and the
            optimiser's state, are fp32 (fp64 with "fp64", which is for tests).
        data_revision, model_revision: filled in by `lopt.resolve.resolve`.

    Raises:
        ValueError: names the field, what came and what is valid.
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
    max_steps: int = 5000
    eval_every: int = 100
    template: str | None = None
    label_words: tuple[str, ...] | None = None
    max_tokens: int | None = None
    train_min_tokens: int | None = None
    train_max_tokens: int | None = None
    train_examples: int | None = None
    selection_examples: int | None = None
    test_examples: int | None = None
    shots: int | None = None
    holdout: str = "train"
    metric: str = "accuracy"
    data_seed: int = 42
    precision: str = "auto"
    data_revision: str | None = None
    model_revision: str | None = None

    def __post_init__(self) -> None:
        for name, kind in field_types(TrialSettings).items():
            value = getattr(self, name)
            if value is None and type(None) in kind.types:
                continue
            if float in kind.types:
                _real(name, value, *_BOUNDS[name])
            elif int in kind.types:
                _whole(name, value, *((0, MOST_SEED) if name in _SEEDS else (1,)))
            elif name in _WORDS and value not in (valid := _WORDS[name]):
                raise ValueError(f"{name} is {value!r}; valid: {', '.join(valid)}.{nearest(value, valid)}")
            elif name in ("data_revision", "model_revision") and not isinstance(value, str):
                raise ValueError(f"{name} is {value!r}; give text, or leave it out")
        if not isinstance(self.options, Mapping):
            raise ValueError(f"options is {self.options!r}; give a mapping of the method's options")
        if not isinstance(self.label_words, list | tuple | None):  # a text would be taken for a word a letter
            raise ValueError(f"label_words is {self.label_words!r}; give a list of texts")
        if self.shots is not None and self.train_examples is not None:
            raise ValueError(f"shots is {self.shots} and train_examples {self.train_examples}: give one of them")
        if not isinstance(self.backbone, str) or not self.backbone:
            raise ValueError(f"backbone is {self.backbone!r}; give a name, a local folder or a hub name")


def _whole(name: str, value: Any, least: int, most: int = 2**31 - 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; give a whole number, {least} or more")
    if value > most:
        raise ValueError(f"{name} is above {most:,}; give a whole number, {least} to {most:,}")


def _real(name: str, value: Any, valid: str, holds: Callable[[float], bool]) -> None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not fine or not holds(value):
        raise ValueError(f"{name} is {value!r}; give a number {valid}")
