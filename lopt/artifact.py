"""What was trained as files: factors and materialised prompt in safetensors, everything else in JSON. No pickle."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor

from lopt import backbones, methods, tasks
from lopt.backbones import Backbone, Facts
from lopt.config import TrialConfig
from lopt.data import most_tokens, prepare
from lopt.encoding import Encoded, as_fields, encode
from lopt.evaluation import predict_split
from lopt.files import refuse_pointer
from lopt.fingerprint import fingerprint
from lopt.locations import local_copy, location
from lopt.metrics import Predictions
from lopt.records import dumps
from lopt.soft_prompt import TENSORS, SoftPrompt
from lopt.tasks import Task

_DESCRIPTION = "prompt.json"
_OWN = ("format", "key", "config", "classes", "task")  # entries of a description that are no part of the record
_OF_THE_TASK = ("title", "columns", "cut")  # what reading an input needs, beside classes, template and label words


@dataclass(frozen=True)
class Answer:
    """The class predicted for one input, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a trial trained: a prompt, or the weights of LoRA and fine-tuning.

    config: of the trial. factors: the trained tensors by name. soft: the prompt as it stands at the input, float32;
    None for methods that change weights. described: the task as it was when this was trained; None takes the one at
    hand. source: name or folder of the backbone; None takes the configuration's. test_accuracy: as recorded.
    """

    config: TrialConfig
    factors: Mapping[str, Tensor]
    soft_prompt: SoftPrompt | None
    recorded: Mapping[str, Any] = field(default_factory=dict)
    described: Task | None = None
    source: str | None = None

    @property
    def task(self) -> Task:
        """The task that this was trained for: its columns and classes."""
        return self.described or tasks.get(self.config.task)

    @property
    def test_accuracy(self) -> float | None:
        """On the reported split, as recorded."""
        return self.recorded.get("test_accuracy")

    @property
    def prompt_PH(self) -> Tensor:
        """X itself, `[P, H]`; ValueError for methods without a prompt."""
        if self.soft_prompt is None:
            raise ValueError(f"method {self.config.method} has no prompt: it changes the model's weights")
        return self.soft_prompt.prompt

    @cached_property
    def backbone(self) -> Backbone:
        """The model this was trained for (loaded once a process), with trained weights in it where the method has any;
        ValueError when the weights at hand are others than those of training."""
        if self.soft_prompt is not None:
            return self.base
        return methods.get(self.config.method).begin(self.base, self.config, self.factors).backbone

    @cached_property
    def base(self) -> Backbone:
        """The frozen model this was trained for; ValueError as of `backbone`."""
        backbone = self._load(methods.get(self.config.method).weights_precision(self.config.precision))
        if backbone.revision != self.config.model_revision and self.recorded.get("weights") != fingerprint(backbone):
            check_revisions(self.config, self.config.data_revision, backbone.revision)
        if self.soft_prompt is not None and self.soft_prompt.prompt.shape[1] != backbone.width:
            raise ValueError(
                f"this prompt is {self.soft_prompt.prompt.shape[1]} wide, but backbone {backbone.name} is "
                f"{backbone.width}: give the model that it was trained for"
            )
        return backbone

    @property
    def facts(self) -> Facts:
        """What is known of its model; ValueError when that is not at hand."""
        return backbones.facts(self.source or _where(self.config.backbone))

    def _load(self, precision: str) -> Backbone:
        name = self.source or _where(self.config.backbone)
        try:
            return backbones.load(name, precision)
        except ValueError as error:
            if self.source or name in backbones.names():
                raise
            raise ValueError(
                f"{error}. If the model lies in another folder now, give it: --backbone FOLDER, or "
                "load_prompt(..., backbone=FOLDER)"
            ) from error

    def evaluate(self) -> Predictions:
        """The canonical evaluation: predictions on the reported split, exactly as recorded; logits `[N, C]`. ValueError
        when data or weights cannot be had, or are others than those of training."""
        self._check_task()
        data = prepare(self.config, self.backbone)
        check_revisions(self.config, data.revision, self.config.model_revision)
        return self._said(data.test)

    def predict(
        self, texts: Iterable[str | Mapping[str, str]], on_done: Callable[[int], None] = lambda count: None
    ) -> list[Answer]:
        """Classes of new inputs, in their order.

        Args:
            texts: a text each, for tasks of one column, or a mapping of the task's columns. A long text loses its end,
                as in training.
            on_done: told of inputs that are done, how many, as they are.

        Returns:
            An answer each: the likeliest class, and the probabilities of all, the softmax over the label words' logits.

        Raises:
            ValueError: an input that is empty or lacks a column; a template that leaves no room for the text; weights
                that cannot be had, or are others than those of training.
        """
        task = self.task
        fields = [as_fields(task, text) for text in texts]
        if not fields:
            return []
        backbone = self.backbone
        most, template = most_tokens(self.config, backbone), backbone.complete(self.config.template or "")
        made = [encode(backbone.tokenizer, task, template, each, most) for each in fields]
        nothing = np.zeros(len(made), dtype=np.int64)
        encoded = Encoded(tuple(ids for ids, _ in made), nothing, np.arange(len(made)), sum(cut for _, cut in made))
        logits = self._said(encoded, on_done).logits
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return [
            Answer(task.classes[int(row.argmax())], dict(zip(task.classes, map(float, row), strict=True)))
            for row in probabilities
        ]

    def _check_task(self) -> None:
        """Raises ValueError when the task at hand, whose rows are to be scored, is not the one of training."""
        try:
            current = tasks.get(self.config.task)
        except ValueError as error:
            raise ValueError(f"to be scored again, this needs the rows of its task, and {error}") from None
        for name in ("classes", "columns", "cut"):
            then, now = getattr(self.task, name), getattr(current, name)
            if then != now:
                raise ValueError(f"this was trained with {name} {then}, but task {current.name} has {now}: restore it")

    def _said(self, encoded: Encoded, on_done: Callable[[int], None] = lambda count: None) -> Predictions:
        backbone = self.backbone
        soft_prompt = self.soft_prompt and self.soft_prompt.map(lambda tensor: tensor.to(backbone.device))
        labels = backbone.label_ids(self.config.label_words or ())
        return predict_split(backbone, soft_prompt, encoded, labels, on_done=on_done)

    def save(self, folder: str | Path, *, record: Mapping[str, Any] | None = None) -> Path:
        """Writes factors, prompt and description to `folder`; see `describe` for `record`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"factors.{name}": tensor for name, tensor in self.factors.items()}
        if self.soft_prompt is not None:
            tensors["prompt"] = self.soft_prompt.prompt
            if self.soft_prompt.update is not None:
                tensors["update"] = self.soft_prompt.update
        # Cloned: a factor may be the prompt itself, and tied weights share memory, which safetensors refuses.
        save_file({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}, folder / TENSORS)
        return self.describe(folder, record or {})

    def describe(self, folder: str | Path, record: Mapping[str, Any]) -> Path:
        """Writes the description beside the tensors: the configuration and `record` (counts, accuracies)."""
        described = {
            "format": 2,
            "key": self.config.key,
            "config": self.config.to_dict(),
            "classes": list(self.task.classes),
            "task": {name: getattr(self.task, name) for name in _OF_THE_TASK},
            **record,
        }
        (Path(folder) / _DESCRIPTION).write_text(dumps(described))
        return Path(folder)


def check_revisions(config: TrialConfig, data: str | None, model: str | None) -> None:
    """Raises ValueError when data or weights at hand are not those that the configuration names."""
    pairs = (
        ("task", config.task, config.data_revision, data),
        ("backbone", config.backbone, config.model_revision, model),
    )
    for kind, name, named, found in pairs:
        if named is not None and named != found:
            raise ValueError(f"this trial is of {kind} {name}, revision {named}; at hand is revision {found}")


def _where(backbone: str) -> str:
    """Where a prompt's model lies: under its own name, else, of a folder that is not there any more, under the folder's
    name in `LOPT_MODEL_DIR`."""
    mirror = os.environ.get("LOPT_MODEL_DIR")
    moved = Path(mirror or "", Path(backbone).name)
    if not mirror or not (moved / "config.json").is_file():
        return backbone
    try:
        there = backbones.local_folder(backbone)
    except ValueError:  # a path at which there is nothing
        there = None
    return backbone if there else str(moved)


def load_prompt(folder: str | Path, *, backbone: str | Path | None = None) -> Prompt:
    """Opens what was trained, a prompt or the weights of LoRA and fine-tuning; the backbone is loaded when it first
    predicts. Of the task nothing else is needed.

    Args:
        folder: or a URL, such as s3://bucket/results/<run>/artifacts/<key>.
        backbone: where the model lies, if not where it lay when this was trained; its weights must be the same.

    Raises:
        ValueError: no prompt is there, or its files do not belong together.
        OSError: the URL's file system cannot be reached.
    """
    source = location(folder)
    with local_copy(source) as folder:
        return _opened(folder, shown_as=str(source), backbone=None if backbone is None else str(backbone))


def _opened(folder: Path, shown_as: str, backbone: str | None) -> Prompt:
    for name in (TENSORS, _DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(
                f"{shown_as} holds no trained prompt: {name} is missing; artifacts/<key>/ of a run holds one"
            )
        refuse_pointer(folder / name)
    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        values, tensors = description["config"], load_file(folder / TENSORS)
        task = _task(description)
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise ValueError(f"{shown_as} is damaged ({type(error).__name__}: {error}): copy it again") from None
    config = TrialConfig.from_dict(values, task)
    factors = {n.removeprefix("factors."): t for n, t in tensors.items() if n.startswith("factors.")}
    soft_prompt = _checked(config, factors, tensors, shown_as)
    recorded = {name: value for name, value in description.items() if name not in _OWN}
    if task is None:
        now, then = list(tasks.get(config.task).classes), description.get("classes")
        if then not in (None, now):  # the numbers of the classes would mean others
            raise ValueError(
                f"{shown_as} was trained on classes {then}, but task {config.task} now has {now}: restore them"
            )
    return Prompt(config, factors, soft_prompt, recorded, task, backbone)


def _task(description: Mapping[str, Any]) -> Task | None:
    """The task as it was when the prompt was trained; None in a description of format 1, which does not hold it.
    ValueError, KeyError or TypeError when it is not whole."""
    if "task" not in description:
        return None
    config, about, classes = description["config"], description["task"], description["classes"]
    columns, words = about["columns"], config["label_words"]
    for name, texts in (("columns", columns), ("classes", classes), ("label_words", words)):
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"its {name} are not a list of texts")
        if len(set(texts)) < len(texts):
            raise ValueError(f"its {name} are not distinct")
    if about["cut"] not in columns or not all(isinstance(text, str) for text in (about["title"], config["task"])):
        raise ValueError("its task is not whole")
    return Task(
        name=config["task"],
        title=about["title"],
        columns=tuple(columns),
        classes=tuple(classes),
        template=config["template"],
        label_words=tuple(words),
        cut=about["cut"],
    )


def _checked(
    config: TrialConfig, factors: Mapping[str, Tensor], tensors: Mapping[str, Tensor], folder: str
) -> SoftPrompt | None:
    """The stored prompt; ValueError when the factors, with frozen ones re-made from their seeds, give another one."""
    stored = tensors.get("prompt")
    if stored is not None and stored.ndim != 2:
        raise ValueError(f"{folder} is damaged: its prompt is no matrix")
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError(f"{folder} is damaged: a tensor of it does not hold real numbers")
    width = int(stored.shape[-1]) if stored is not None else 0
    try:
        made = methods.get(config.method).made(config, factors, width)
    except (KeyError, IndexError, ValueError, RuntimeError, StopIteration):
        raise ValueError(f"{folder} is damaged: a factor is missing, or has another shape") from None
    if made is None:
        return None
    if stored is None:
        raise ValueError(f"{folder} is damaged: it holds no prompt")
    if stored.shape[0] != config.length:
        raise ValueError(f"{folder} is damaged: the prompt has {stored.shape[0]} rows, its length is {config.length}")
    soft_prompt = SoftPrompt(prompt=stored, update=tensors.get("update"), placement=made.placement)
    for remade, kept in ((made.prompt, soft_prompt.prompt), (made.update, soft_prompt.update)):
        if remade is None and kept is None:
            continue
        if remade is None or kept is None or remade.shape != kept.shape or not (remade - kept).abs().max() <= 1e-4:
            raise ValueError(f"{folder} is damaged: its factors do not give its prompt")
    return soft_prompt
