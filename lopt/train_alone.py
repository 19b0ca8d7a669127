"""Training of one configuration from start to end, without Ray or a store."""

from pathlib import Path

from lopt.config import TrialConfig
from lopt.records import TrialRecord
from lopt.training import Trial


def train(config: TrialConfig, *, artifact: str | Path | None = None) -> TrialRecord:
    """Train one configuration to the end, without Ray or a store, and score its best prompt on the reported split.

    Args:
        artifact: new or existing folder for the trained prompt, which `load_prompt` opens. If it is None, the
            prompt is not kept.

    Returns:
        The record. Its status is "complete", or "diverged" if the loss or a factor stopped being a finite number or
        the loss exploded. A trial that diverged has no test_accuracy (None) and writes no artifact.

    Raises:
        ValueError: data or weights are not available, or do not fit the configuration.
        OSError: the artifact cannot be written.
    """
    trial = Trial(config)
    for _ in trial:
        pass
    return trial.finish(artifact=artifact)
