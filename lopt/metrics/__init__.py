"""Metrics: how well the answers to a split are. One metric selects trials; a task may name others to report.

A file with a new metric imports all that it needs from here. Importing this package imports neither torch nor the
metrics themselves.
"""

from typing import Any

import numpy as np

from lopt import registry
from lopt.metrics._answers import Answers, Predictions
from lopt.metrics._base import Metric

ACCURACY = "accuracy"  # the metric of all records that name none


def get(name: object, classes: tuple[str, ...] | None = None) -> Metric:
    """Return the metric that a setting names: "NAME", or "NAME:argument" for a metric that takes an argument.

    Args:
        classes: the names of the task's classes, if they are known.

    Raises:
        ValueError: there is no such metric. The message lists the valid ones.
    """
    metrics = registry.plugins("lopt.metrics")
    plain_name, colon, argument = name.partition(":") if isinstance(name, str) else ("", "", "")
    if plain_name not in metrics:
        raise ValueError(f"metric is {name!r}; valid: {', '.join(metrics)}.{registry.did_you_mean(name, metrics)}")
    metric: Metric = metrics[plain_name]
    return metric.with_argument(argument, classes) if colon else metric


def names() -> list[str]:
    """Return the names of all metrics."""
    return list(registry.plugins("lopt.metrics"))


def title(name: str) -> str:
    """Return what texts call a metric. A metric that this program does not know is called by its name."""
    try:
        return get(name).title
    except ValueError:
        return name


def correlation(x: np.ndarray, y: np.ndarray) -> Any:
    """Return Pearson's correlation over the last dimension; 0 where all values of one side are equal."""
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    x_square, y_square = (x**2).sum(axis=-1), (y**2).sum(axis=-1)
    product = np.sqrt(x_square * y_square)
    result = np.divide((x * y).sum(axis=-1), product, out=np.zeros_like(product), where=product > 0)
    return np.clip(result, -1.0, 1.0)
