"""What a backbone can do before anything is trained."""

from __future__ import annotations

from typing import Any

from lopt import backbones
from lopt.config import TrialConfig
from lopt.data import prepare
from lopt.evaluation import predict_split
from lopt.resolve import resolve


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
    found = predict_split(backbone, None, data.test, backbone.label_ids(config.label_words or ()))
    return {
        "backbone": config.backbone,
        "task": config.task,
        "template": config.template,
        "label_words": list(config.label_words or ()),
        "test_split": data.report_split,
        "test_n": len(found.gold),
        "zero_shot_accuracy": found.accuracy,
        "majority_accuracy": found.majority_share,
    }
