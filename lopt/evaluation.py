"""The canonical evaluation: what a backbone predicts for each example of a split, with or without a soft prompt."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt import backbones, memory, metrics
from lopt.backbones import Backbone
from lopt.batches import collate, evaluation_batches
from lopt.config import TrialConfig, reported_metrics
from lopt.data import prepare_data
from lopt.encoding import EncodedExamples
from lopt.lanes import Lanes
from lopt.metrics import Predictions
from lopt.resolve import resolve
from lopt.soft_prompt import SoftPrompt

EVALUATION_BATCH_SIZE_BY_DEVICE = {"cpu": 32, "cuda": 256}


def predict_split(
    backbone: Backbone,
    soft_prompt: SoftPrompt | None,
    encoded: EncodedExamples,
    label_ids: Tensor,
    *,
    on_progress: Callable[[int], None] = lambda count: None,
) -> Predictions:
    """Predict a whole split. The batches are fixed, so repeating it gives the same bits. A batch that does not fit
    into memory is computed in parts.

    Args:
        soft_prompt: the soft prompt on the backbone's device. If it is None, the input is the text alone.
        encoded: the N examples of the split.
        label_ids: first token of each label word, `[C]`, as `backbone.label_ids` returns them.
        on_progress: called with the number of examples that have just been predicted. Several threads call it, but only
            one at a time.

    Returns:
        Predictions in the order of the split. Their logits are float64, `[N, C]`.
    """
    logits_by_batch: list[tuple[np.ndarray, Tensor]] = []
    progress_lock = threading.Lock()

    def predict_batch(positions: np.ndarray) -> None:
        ids_BT, lengths_B, _ = collate(encoded, positions, backbone.pad_id)
        with torch.inference_mode():
            logits_BC = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)
        with progress_lock:
            logits_by_batch.append((positions, logits_BC))
            on_progress(len(positions))

    with Lanes(backbone) as lanes:
        batches = evaluation_batches(encoded.token_counts, EVALUATION_BATCH_SIZE_BY_DEVICE[backbone.device.type])
        lanes.run(lambda positions: memory.run_in_parts(predict_batch, positions), batches)
    logits_NC = np.empty((len(encoded), len(label_ids)), dtype=np.float64)
    for positions, logits_BC in logits_by_batch:  # only here does the CPU wait for a GPU
        logits_NC[positions] = logits_BC.cpu().numpy()
    return Predictions.of(encoded, logits_NC)


def measure_baselines(config: TrialConfig) -> dict[str, Any]:
    """Measure the baselines on the reported split: the backbone without a soft prompt, and the majority class.

    Returns:
        An entry of `baselines.json`: backbone, task, template, label_words, test_split (name of the split), test_n
        (number of examples scored), and zero_shot_accuracy and majority_accuracy as fractions; and zero_shot_scores and
        majority_scores, the values of the metric that selects and of those that the task reports, by their names.

    Raises:
        ValueError: data or weights are not available, or do not fit the configuration.
    """
    config = resolve(config)
    backbone = backbones.load(config.backbone, config.precision)
    data = prepare_data(config, backbone)
    predictions = predict_split(backbone, None, data.test, backbone.label_ids(config.label_words or ()))
    names = reported_metrics(config)
    return {
        "backbone": config.backbone,
        "task": config.task,
        "template": config.template,
        "label_words": list(config.label_words or ()),
        "test_split": data.report_split,
        "test_n": len(predictions.gold),
        "zero_shot_accuracy": predictions.accuracy,
        "majority_accuracy": predictions.majority_share,
        "zero_shot_scores": {name: metrics.get(name).score(predictions.answers) for name in names},
        "majority_scores": {name: metrics.get(name).score(predictions.majority_answers) for name in names},
    }
