"""Trained prompts as files: factors and materialised prompt in safetensors, everything else in JSON. No pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lopt import backbones, methods, tasks
from lopt.config import TrialConfig
from lopt.data import Encoded, as_fields, collate, encode, evaluation_batches, prepare
from lopt.metrics import Predictions
from lopt.records import dumps

if TYPE_CHECKING:
    from torch import Tensor

    from lopt.backbones import Backbone

EVALUATION_BATCH = 32
_TENSORS, _DESCRIPTION = "prompt.safetensors", "prompt.json"


@dataclass(frozen=True)
class Answer:
    """The class predicted for one input, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


def predict_split(backbone: Backbone, prompt: Tensor | None, encoded: Encoded, label_ids: Tensor) -> Predictions:
    """Label-word logits of a whole split: fixed batches in a fixed order, so a repetition gives the same bits."""
    import numpy as np
    import torch

    logits_NC = np.empty((len(encoded), len(label_ids)), dtype=np.float64)
    with torch.inference_mode():
        for positions in evaluation_batches(encoded.lengths, EVALUATION_BATCH):
            ids_BT, lengths_B, _ = collate(encoded, positions, backbone.pad_id)
            logits_NC[positions] = backbone.label_logits(prompt, ids_BT, lengths_B, label_ids).cpu().numpy()
    return Predictions(encoded.example_ids, encoded.labels, logits_NC)


@dataclass(frozen=True, eq=False)
class Prompt:
    """A trained prompt.

    config: of the trial that trained it. factors: the trained matrices by name. prompt_PH: X itself, `[P, H]`,
    float32. test_accuracy: as recorded.
    """

    config: TrialConfig
    factors: Mapping[str, Tensor]
    prompt_PH: Tensor
    test_accuracy: float | None = None

    @property
    def backbone(self) -> Backbone:
        """The frozen model this prompt was trained for (loaded once a process).

        Raises:
            ValueError: the weights at hand are others than those of training.
        """
        found = backbones.load(self.config.backbone, self.config.precision)
        check_revisions(self.config, self.config.data_revision, found.revision)
        return found

    def evaluate(self) -> Predictions:
        """The canonical evaluation: predictions on the reported split, exactly as recorded."""
        backbone = self.backbone
        data = prepare(self.config, backbone)
        check_revisions(self.config, data.revision, backbone.revision)
        return predict_split(backbone, self._on(backbone), data.test, self._labels(backbone))

    def predict(self, texts: Iterable[str | Mapping[str, str]]) -> list[Answer]:
        """Classes of new inputs: a text each, or a mapping of the task's columns.

        Raises:
            ValueError: an input that is empty or lacks a column.
        """
        import numpy as np

        backbone, task = self.backbone, tasks.get(self.config.task)
        most = min(backbone.window - self.config.length, self.config.max_tokens or backbone.window)
        template = self.config.template or ""
        made = [encode(backbone.tokenizer, task, template, as_fields(task, text), most) for text in texts]
        if not made:
            return []
        nothing = np.zeros(len(made), dtype=np.int64)
        encoded = Encoded(tuple(ids for ids, _ in made), nothing, np.arange(len(made)), sum(cut for _, cut in made))
        logits = predict_split(backbone, self._on(backbone), encoded, self._labels(backbone)).logits
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = odds / odds.sum(axis=1, keepdims=True)
        return [
            Answer(task.classes[int(row.argmax())], dict(zip(task.classes, map(float, row), strict=True)))
            for row in probabilities
        ]

    def _on(self, backbone: Backbone) -> Tensor:
        return self.prompt_PH.to(backbone.device)

    def _labels(self, backbone: Backbone) -> Tensor:
        return backbone.label_ids(self.config.label_words or ())

    def save(self, folder: str | Path, *, record: Mapping[str, Any] | None = None) -> Path:
        """Writes the prompt to `folder`; `record` (counts, accuracies) goes into its description."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"factors.{name}": t.detach().cpu().contiguous() for name, t in self.factors.items()}
        # Cloned: a method whose factor is the prompt itself would share its memory, which safetensors refuses.
        save_file({**tensors, "prompt": self.prompt_PH.detach().cpu().contiguous().clone()}, folder / _TENSORS)
        described = {"format": 1, "key": self.config.key, "config": self.config.to_dict(), **(record or {})}
        (folder / _DESCRIPTION).write_text(dumps(described))
        return folder


def check_revisions(config: TrialConfig, data: str | None, model: str) -> None:
    """Raises ValueError when data or weights at hand are not those that the configuration names."""
    pairs = (
        ("task", config.task, config.data_revision, data),
        ("backbone", config.backbone, config.model_revision, model),
    )
    for kind, name, named, found in pairs:
        if named is not None and named != found:
            raise ValueError(f"this trial is of {kind} {name}, revision {named}; at hand is revision {found}")


def load_prompt(folder: str | Path) -> Prompt:
    """Opens a trained prompt; weights of the backbone are loaded when it first predicts.

    Raises:
        ValueError: no prompt is there, or its files do not belong together.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (_TENSORS, _DESCRIPTION):
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder} holds no trained prompt: {name} is missing; artifacts/<key>/ of a run holds one"
            )
    try:
        described = json.loads((folder / _DESCRIPTION).read_text())
        config, tensors = TrialConfig.from_dict(described["config"]), load_file(folder / _TENSORS)
        factors = {name.removeprefix("factors."): t for name, t in tensors.items() if name != "prompt"}
        prompt_PH = tensors["prompt"]
    except ValueError:
        raise
    except Exception as error:  # a damaged file raises whatever its reader raises
        raise ValueError(f"{folder} is damaged ({type(error).__name__}: {error}): copy it again") from None
    if tuple(prompt_PH.shape[:1]) != (config.length,):
        raise ValueError(
            f"{folder} is damaged: the prompt has {prompt_PH.shape[0]} rows, its length is {config.length}"
        )
    remade = _remake(config, factors, prompt_PH.shape[1])
    if not bool((remade - prompt_PH).abs().max() <= 1e-4):
        raise ValueError(f"{folder} is damaged: its factors do not give its prompt")
    return Prompt(config, factors, prompt_PH, described.get("test_accuracy"))


def _remake(config: TrialConfig, factors: Mapping[str, Tensor], width: int) -> Tensor:
    """X from the stored factors and the frozen ones, which come from their seed."""
    method = methods.get(config.method)
    frozen = frozen_factors(config, width, dtype=next(iter(factors.values())).dtype)
    return method.prompt({**frozen, **factors}, config.options)


def frozen_factors(config: TrialConfig, width: int, *, dtype: Any) -> dict[str, Tensor]:
    """The method's frozen random matrices, exactly as in training."""
    import torch

    method = methods.get(config.method)
    shape = methods.shape_of(config, width)
    values, declared = method.initial_values(shape, config.seed), method.factors(shape)
    return {n: torch.tensor(v, dtype=dtype) for n, v in values.items() if not declared[n].trainable}
