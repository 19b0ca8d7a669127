"""Saves and loads trained prompts and weights: tensors in safetensors, everything else in JSON, and no pickle."""

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
from lopt.data import max_input_tokens, prepare_data
from lopt.encoding import EncodedExamples, check_fields, encode
from lopt.evaluation import predict_split
from lopt.files import refuse_lfs_pointer
from lopt.fingerprint import model_fingerprint
from lopt.locations import local_copy, to_location
from lopt.metrics import Predictions
from lopt.records import to_json
from lopt.soft_prompt import PROMPT_FILE, SoftPrompt
from lopt.tasks import Task
from lopt.trained_task import describe_task, read_task

_DESCRIPTION_FILE = "prompt.json"
_NON_RESULT_ENTRIES = ("format", "key", "config", "classes", "task")  # other entries of a description are results


@dataclass(frozen=True)
class Answer:
    """The class predicted for one input, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a trial trained: a soft prompt, or the weights of LoRA or fine-tuning.

    Attributes:
        config: the trial's configuration.
        factors: the trained tensors by name.
        soft_prompt: the soft prompt, float32. None for methods that change weights.
        results: results of the trial by name, such as parameter counts and accuracies.
        trained_task: the task as it was in training. If it is None, the installed task is used.
        backbone_source: name or folder of the backbone. If it is None, the configuration's backbone is used.
    """

    config: TrialConfig
    factors: Mapping[str, Tensor]
    soft_prompt: SoftPrompt | None
    results: Mapping[str, Any] = field(default_factory=dict)
    trained_task: Task | None = None
    backbone_source: str | None = None

    @property
    def task(self) -> Task:
        """The task that was trained on, with its columns and classes."""
        return self.trained_task or tasks.get(self.config.task)

    @property
    def test_accuracy(self) -> float | None:
        """The recorded accuracy on the reported split."""
        return self.results.get("test_accuracy")

    @property
    def prompt_PH(self) -> Tensor:
        """The prompt X, `[P, H]`. A method without a prompt raises ValueError."""
        if self.soft_prompt is None:
            raise ValueError(f"method {self.config.method} has no prompt: it changes the model's weights")
        return self.soft_prompt.prompt

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, with the trained weights in it if the method trains weights. It is loaded once per process.
        Raises ValueError if its weights are not those that training started from."""
        if self.soft_prompt is not None:
            return self.frozen_backbone
        return methods.get(self.config.method).begin(self.frozen_backbone, self.config, self.factors).backbone

    @cached_property
    def frozen_backbone(self) -> Backbone:
        """The backbone as it was before training. Raises ValueError if its weights are not those of that time."""
        backbone = self._load_backbone(methods.get(self.config.method).weights_precision(self.config.precision))
        is_other_revision = backbone.revision != self.config.model_revision
        if is_other_revision and self.results.get("weights") != model_fingerprint(backbone):
            check_revisions(self.config, self.config.data_revision, backbone.revision)
        if self.soft_prompt is not None and self.soft_prompt.prompt.shape[1] != backbone.width:
            raise ValueError(
                f"this prompt is {self.soft_prompt.prompt.shape[1]} wide, but backbone {backbone.name} is "
                f"{backbone.width} wide: give the model that it was trained for"
            )
        return backbone

    @property
    def facts(self) -> Facts:
        """What is known about the model without its weights. Raises ValueError if the model cannot be found."""
        return backbones.facts(self.backbone_source or _current_backbone_source(self.config.backbone))

    def _load_backbone(self, precision: str) -> Backbone:
        source = self.backbone_source or _current_backbone_source(self.config.backbone)
        try:
            return backbones.load(source, precision)
        except ValueError as error:
            if self.backbone_source or source in backbones.names():
                raise
            raise ValueError(
                f"{error}. If the model is in another folder now, give that folder: --backbone FOLDER, or "
                "load_prompt(..., backbone=FOLDER)"
            ) from error

    def evaluate(self) -> Predictions:
        """Repeat the canonical evaluation on the reported split. Its accuracy is exactly the recorded one.

        Returns:
            Predictions with logits `[N, C]`.

        Raises:
            ValueError: data or weights are not available, or are not those of training.
        """
        self._check_task()
        data = prepare_data(self.config, self.backbone)
        check_revisions(self.config, data.revision, self.config.model_revision)
        return self._predict_split(data.test, on_progress=lambda count: None)

    def predict(
        self, texts: Iterable[str | Mapping[str, str]], on_progress: Callable[[int], None] = lambda count: None
    ) -> list[Answer]:
        """Predict the classes of new inputs.

        Args:
            texts: the inputs. An input is a text if the task has one column, and otherwise a mapping of the task's
                columns. The end of a text that is too long is cut off, as in training.
            on_progress: called with the number of inputs that have just been predicted.

        Returns:
            An answer for each input, in their order: the likeliest class, and the probabilities of all classes (the
            softmax over the label words' logits).

        Raises:
            ValueError: an input is empty or lacks a column; the template leaves no room for the text; the weights are
                not available or are not those of training.
        """
        task = self.task
        inputs = [check_fields(task, text) for text in texts]
        if not inputs:
            return []
        backbone = self.backbone
        token_limit = max_input_tokens(self.config, backbone)
        template = backbone.fill_template(self.config.template or "")
        tokenised = [encode(backbone.tokenizer, task, template, fields, token_limit) for fields in inputs]
        encoded = EncodedExamples(
            token_ids=tuple(token_ids for token_ids, _ in tokenised),
            labels=np.zeros(len(inputs), dtype=np.int64),  # unknown, and not used
            example_ids=np.arange(len(inputs)),
            truncated_count=sum(was_cut for _, was_cut in tokenised),
        )
        logits = self._predict_split(encoded, on_progress).logits
        exponentials_NC = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities_NC = exponentials_NC / exponentials_NC.sum(axis=1, keepdims=True)
        return [
            Answer(task.classes[int(row.argmax())], dict(zip(task.classes, map(float, row), strict=True)))
            for row in probabilities_NC
        ]

    def _check_task(self) -> None:
        """Raise ValueError if the installed task, whose rows are to be scored, differs from the task of training."""
        try:
            task = tasks.get(self.config.task)
        except ValueError as error:
            raise ValueError(f"this prompt cannot be scored again without the rows of its task: {error}") from None
        for name, attribute in (("classes", "classes"), ("columns", "columns"), ("cut", "cut_column")):
            trained, installed = getattr(self.task, attribute), getattr(task, attribute)
            if trained != installed:
                raise ValueError(
                    f"trained with `{name}` {trained}, but task {task.name} now has {installed}: restore the task"
                )

    def _predict_split(self, encoded: EncodedExamples, on_progress: Callable[[int], None]) -> Predictions:
        backbone = self.backbone
        soft_prompt = self.soft_prompt and self.soft_prompt.map(lambda tensor: tensor.to(backbone.device))
        label_ids = backbone.label_ids(self.config.label_words or ())
        return predict_split(backbone, soft_prompt, encoded, label_ids, on_progress=on_progress)

    def save(self, folder: str | Path, *, results: Mapping[str, Any] | None = None) -> Path:
        """Write the tensors and the description, with these `results`, to `folder`, and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"factors.{name}": tensor for name, tensor in self.factors.items()}
        if self.soft_prompt is not None:
            tensors["prompt"] = self.soft_prompt.prompt
            if self.soft_prompt.update is not None:
                tensors["update"] = self.soft_prompt.update
        # safetensors refuses tensors that share memory, but a factor may be the prompt itself, and weights may be tied.
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(tensors, folder / PROMPT_FILE)
        return self.write_description(folder, results or {})

    def write_description(self, folder: str | Path, results: Mapping[str, Any]) -> Path:
        """Write the description into `folder`: the configuration, the task, and `results` (counts, accuracies)."""
        description = {
            "format": 2,
            "key": self.config.key,
            "config": self.config.to_dict(),
            "classes": list(self.task.classes),
            "task": describe_task(self.task),
            **results,
        }
        (Path(folder) / _DESCRIPTION_FILE).write_text(to_json(description))
        return Path(folder)


def check_revisions(config: TrialConfig, data_revision: str | None, model_revision: str | None) -> None:
    """Raise ValueError if the data or the weights on this machine have another revision than the configuration says."""
    for kind, name, trained_revision, revision_here in (
        ("task", config.task, config.data_revision, data_revision),
        ("backbone", config.backbone, config.model_revision, model_revision),
    ):
        if trained_revision is not None and trained_revision != revision_here:
            raise ValueError(
                f"this trial was trained with {kind} {name} at revision {trained_revision}, but its revision here is "
                f"{revision_here}: restore its files"
            )


def _current_backbone_source(recorded_backbone: str) -> str:
    """Return the name or folder under which a prompt's model is found now. This is the recorded one, or, if that folder
    no longer exists, the folder of the same name in `LOPT_MODEL_DIR`."""
    models_folder = os.environ.get("LOPT_MODEL_DIR")
    moved_folder = Path(models_folder or "", Path(recorded_backbone).name)
    if not models_folder or not (moved_folder / "config.json").is_file():
        return recorded_backbone
    try:
        recorded_folder = backbones.local_folder(recorded_backbone)
    except ValueError:  # a path where nothing exists
        recorded_folder = None
    return recorded_backbone if recorded_folder else str(moved_folder)


def load_prompt(folder: str | Path, *, backbone: str | Path | None = None) -> Prompt:
    """Open a trained prompt, or the trained weights of LoRA or fine-tuning. The backbone is loaded when it is first
    needed. The task's own folder is never needed, because the prompt's files describe the task.

    Args:
        folder: a folder, or a URL such as s3://bucket/results/<run>/artifacts/<key>.
        backbone: name or folder of the model, if it has moved since training. Its weights must be the same.

    Raises:
        ValueError: the folder does not hold a trained prompt, or its files do not belong together.
        OSError: the URL's file system cannot be reached.
    """
    source = to_location(folder)
    with local_copy(source) as local_folder:
        return _read_prompt(local_folder, str(source), backbone=None if backbone is None else str(backbone))


def _read_prompt(folder: Path, display_name: str, backbone: str | None) -> Prompt:
    for file_name in (PROMPT_FILE, _DESCRIPTION_FILE):
        if not (folder / file_name).is_file():
            raise ValueError(
                f"{display_name} holds no trained prompt: {file_name} is missing; give artifacts/<key> of a run"
            )
        refuse_lfs_pointer(folder / file_name)
    try:
        description = json.loads((folder / _DESCRIPTION_FILE).read_text())
        config_values, tensors = description["config"], load_file(folder / PROMPT_FILE)
        task = read_task(description)
    except Exception as error:  # readers raise all kinds of exceptions on damaged files
        raise ValueError(f"{display_name} is damaged ({type(error).__name__}: {error}): copy it again") from None
    config = TrialConfig.from_dict(config_values, task)
    factors = {name.removeprefix("factors."): tensor for name, tensor in tensors.items() if name.startswith("factors.")}
    soft_prompt = _read_soft_prompt(config, factors, tensors, display_name)
    results = {name: value for name, value in description.items() if name not in _NON_RESULT_ENTRIES}
    if task is None:
        trained, installed = description.get("classes"), list(tasks.get(config.task).classes)
        if trained not in (None, installed):  # otherwise a class's number would mean another class
            raise ValueError(
                f"{display_name} was trained on classes {trained}, but task {config.task} now has {installed}: "
                "restore the task's classes"
            )
    return Prompt(config, factors, soft_prompt, results, task, backbone)


def _read_soft_prompt(
    config: TrialConfig, factors: Mapping[str, Tensor], tensors: Mapping[str, Tensor], display_name: str
) -> SoftPrompt | None:
    """Return the stored soft prompt; None for a weight method. Raise ValueError if it does not match the factors."""
    stored = tensors.get("prompt")
    if stored is not None and stored.ndim != 2:
        raise ValueError(f"{display_name} is damaged: its prompt is not a matrix")
    if not all(tensor.is_floating_point() for tensor in tensors.values()):
        raise ValueError(f"{display_name} is damaged: one of its tensors does not hold floating-point numbers")
    width = int(stored.shape[-1]) if stored is not None else 0
    try:
        rebuilt = methods.get(config.method).rebuild(config, factors, width)
    except (KeyError, IndexError, ValueError, RuntimeError, StopIteration):
        raise ValueError(f"{display_name} is damaged: a factor is missing, or has another shape") from None
    if rebuilt is None:
        return None
    if stored is None:
        raise ValueError(f"{display_name} is damaged: it holds no prompt")
    if stored.shape[0] != config.length:
        raise ValueError(
            f"{display_name} is damaged: its prompt has {stored.shape[0]} rows, but its length is {config.length}"
        )
    soft_prompt = SoftPrompt(prompt=stored, update=tensors.get("update"), placement=rebuilt.placement)
    if not (_are_close(rebuilt.prompt, soft_prompt.prompt) and _are_close(rebuilt.update, soft_prompt.update)):
        raise ValueError(f"{display_name} is damaged: its prompt does not match its factors")
    return soft_prompt


def _are_close(rebuilt: Tensor | None, stored: Tensor | None) -> bool:
    if rebuilt is None or stored is None:
        return rebuilt is stored
    return rebuilt.shape == stored.shape and bool((rebuilt - stored).abs().max() <= 1e-4)
