"""The scores of a trained prompt on the reported split: taken once, from its files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lopt.artifact import load_prompt
from lopt.data import TaskData
from lopt.fingerprint import fingerprint
from lopt.methods import Counts
from lopt.metrics import Predictions


def score(folder: Path, data: TaskData, counts: Counts) -> tuple[dict[str, Any], Predictions]:
    """Evaluates the prompt that was saved to `folder`, and writes its scores and parameter counts beside it.

    Returns:
        The fields `test_*` and `majority_accuracy` of its record, and what it said of each example.
    """
    prompt = load_prompt(folder)
    began = time.perf_counter()
    predictions = prompt.evaluate()
    scores = {
        "test_time_s": round(time.perf_counter() - began, 3),
        "test_accuracy": predictions.accuracy,
        "test_macro_f1": predictions.macro_f1,
        "test_loss": predictions.loss,
        "test_n": len(predictions.gold),
        "test_split": data.report_split,
        "test_split_size": data.report_size,
        "majority_accuracy": predictions.majority_share,
    }
    parameters = {"trainable_parameters": counts.trainable, "stored_parameters": counts.stored}
    prompt.describe(folder, {**scores, **parameters, "weights": fingerprint(prompt.base)})
    return scores, predictions
