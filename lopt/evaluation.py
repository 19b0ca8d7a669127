"""The canonical evaluation: what a backbone, with a prompt or without, says of each example of a split."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt import backbones, memory
from lopt.backbones import Backbone
from lopt.batches import collate, evaluation_batches
from lopt.config import TrialConfig
from lopt.data import prepare
from lopt.encoding import Encoded
from lopt.lanes import Lanes
from lopt.metrics import Predictions
from lopt.resolve import resolve
from lopt.soft_prompt import SoftPrompt

EVALUATION_BATCH = 32


def predict_split(
    backbone: Backbone,
    soft_prompt: SoftPrompt | None,
    encoded: Encoded,
    label_ids: Tensor,
    *,
    on_done: Callable[[int], None] = lambda count: None,
) -> Predictions:
    """Label-word logits of a whole split: fixed batches, so a repetition gives the same bits. One that does not fit
    into memory goes in parts.

    Args:
        soft: on the backbone's device; None for nothing at the input. encoded: N examples. label_ids: first tokens of
            the label words, `[C]`, as `backbone.label_ids` gives them. on_done: told of examples that are done, how
            many; from several threads, one at a time.

    Returns:
        Predictions in the order of the split, whose logits are float64, `[N, C]`.
    """
    logits_NC = np.empty((len(encoded), len(label_ids)), dtype=np.float64)
    telling = threading.Lock()

    def predict(positions: np.ndarray) -> None:
        ids_BT, lengths_B, _ = collate(encoded, positions, backbone.pad_id)
        with torch.inference_mode():
            logits_NC[positions] = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids).cpu().numpy()
        with telling:
            on_done(len(positions))

    with Lanes(backbone) as lanes:
        lanes.each(lambda batch: memory.in_parts(predict, batch), evaluation_batches(encoded.lengths, EVALUATION_BATCH))
    return Predictions(encoded.example_ids, encoded.labels, logits_NC)


def zero_shot(config: TrialConfig) -> dict[str, Any]:
    """Accuracy of the backbone without any prompt on the reported split, and that of the commonest class.

    Returns:
        An entry of `baselines.json`: backbone, task, template and label_words; test_split, its name; test_n, examples
        scored; zero_shot_accuracy and majority_accuracy, fractions.

    Raises:
        ValueError: data or weights that cannot be had, or that do not fit the configuration.
    """
    config = resolve(config)
    backbone = backbones.load(config.backbone, config.precision)
    data = prepare(config, backbone)
    predictions = predict_split(backbone, None, data.test, backbone.label_ids(config.label_words or ()))
    return {
        "backbone": config.backbone,
        "task": config.task,
        "template": config.template,
        "label_words": list(config.label_words or ()),
        "test_split": data.report_split,
        "test_n": len(predictions.gold),
        "zero_shot_accuracy": predictions.accuracy,
        "majority_accuracy": predictions.majority_share,
    }
