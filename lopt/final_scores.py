"""The scores of the prompt that a trial keeps, after its last step.

During training, a trial is often evaluated on few held-out examples, because that is fast. Of several trials the one
that was lucky on these examples would win. So each complete trial is scored once on the whole held-out part, and the
winner is chosen by this score. (In few-shot runs the selection examples are the whole part, because no more labelled
examples may be seen.) Complete trials of the confirm phase are also scored on the reported split.
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from lopt import metrics
from lopt.artifact import Prompt, load_prompt
from lopt.backbones import Backbone
from lopt.config import reported_metrics
from lopt.data import TaskData
from lopt.encoding import EncodedExamples
from lopt.evaluation import predict_split
from lopt.fingerprint import model_fingerprint
from lopt.methods import Counts
from lopt.metrics import Predictions
from lopt.records import OWN_FIELDS, Evaluation
from lopt.soft_prompt import SoftPrompt


def score_held_out(
    backbone: Backbone,
    soft_prompt: SoftPrompt | None,
    held_out: EncodedExamples,
    label_ids: Tensor,
    best: Evaluation,
    selection_count: int,
) -> dict[str, Any]:
    """Return the scores on the whole held-out part by their field of a record.

    Args:
        soft_prompt: the prompt of the best evaluation. It is None if the model's own weights were trained.
        held_out: the whole held-out part.
        best: the best evaluation. Its scores are taken if it was made on the whole part.
        selection_count: number of examples of that evaluation.
    """
    if selection_count >= len(held_out):
        return {
            "held_out_accuracy": best.selection_accuracy,
            "held_out_macro_f1": best.selection_macro_f1,
            "held_out_loss": best.selection_loss,
            "held_out_n": selection_count,
            "held_out_scores": best.selection_scores,
        }
    predictions = predict_split(backbone, soft_prompt, held_out, label_ids)
    return {
        **score_fields("held_out", predictions, list(best.selection_scores)),
        "held_out_loss": predictions.loss,
        "held_out_n": len(held_out),
    }


def score_fields(part: str, predictions: Predictions, names: Iterable[str]) -> dict[str, Any]:
    """Return the scores of predictions by their field of a record or an evaluation. Each metric without a field of its
    own is an entry of the last field.

    Args:
        part: "selection", "held_out" or "test".
        names: the metrics (see `lopt.config.reported_metrics`).
    """
    answers = predictions.answers
    own_scores = {f"{part}_{name}": metrics.get(name).score(answers) for name in OWN_FIELDS}
    other_scores = {name: metrics.get(name).score(answers) for name in names if name not in OWN_FIELDS}
    return {**own_scores, f"{part}_scores": other_scores}


def score_reported_split(
    prompt: Prompt, data: TaskData, counts: Counts, artifact: str | Path | None
) -> tuple[dict[str, Any], Predictions]:
    """Save a prompt, and score the saved files on the reported split.

    Args:
        artifact: folder of the saved prompt. If it is None, the prompt is not kept.

    Returns:
        The scores by their field of a record, and the predictions.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(artifact) if artifact else Path(scratch)
        prompt.save(folder)
        saved_prompt = load_prompt(folder)
        start_s = time.perf_counter()
        predictions = saved_prompt.evaluate()
        scores = {
            "test_time_s": round(time.perf_counter() - start_s, 3),
            **score_fields("test", predictions, reported_metrics(prompt.config)),
            "test_loss": predictions.loss,
            "test_n": len(predictions.gold),
            "test_split": data.report_split,
            "test_split_size": data.report_split_size,
            "majority_accuracy": predictions.majority_share,
        }
        description = {**scores, "trainable_parameters": counts.trainable, "stored_parameters": counts.stored}
        saved_prompt.write_description(
            folder, description | {"weights": model_fingerprint(saved_prompt.frozen_backbone)}
        )
    return scores, predictions
