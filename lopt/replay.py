"""One trial again, beside its record: python -m lopt run --config results/<run>/trials/<key>.json"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lopt.config import TrialConfig
from lopt.locations import location
from lopt.records import Evaluation, TrialRecord


@dataclass(frozen=True)
class Replayed:
    """A trial that has run again. difference: the largest to its record, None where there is nothing to compare: in
    accuracy (held out and reported) as a fraction, in held-out loss in nats."""

    record: TrialRecord
    accuracy_difference: float | None
    loss_difference: float | None


def read(
    file: str | Path, *, task: str | None = None, backbone: str | None = None
) -> tuple[TrialConfig, TrialRecord | None]:
    """The configuration in a file, which may lie at a URL, and the record of its trial where the file is one.

    task, backbone: where their folders lie, if not where the file says. ValueError when the file holds neither.
    """
    path = location(file)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last: lists in lists in lists
        raise ValueError(
            f"--config {path} cannot be read as JSON ({error}); give results/<run>/trials/<key>.json"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} holds no JSON object; give results/<run>/trials/<key>.json")
    record = TrialRecord.from_dict(values) if "schema_version" in values else None
    described = {**(record.config if record else values)}
    for name, where in (("task", task), ("backbone", backbone)):
        folder = described.get(name)
        if where is not None:
            described[name] = where
        elif isinstance(folder, str) and os.path.isabs(folder) and not os.path.isdir(folder):
            raise ValueError(f"{name} {folder!r} is not there: give --{name} FOLDER, where it lies now")
    return TrialConfig.from_dict(described), record


def again(
    config: TrialConfig, record: TrialRecord | None = None, *, artifact: str | Path | None = None
) -> Iterator[tuple[Evaluation, Evaluation | None] | Replayed]:
    """Trains a configuration alone, as far as its record went: each evaluation beside the recorded one, then the
    outcome. Raises whatever the trial raises."""
    from lopt.training import Trial

    trial = Trial(config, phase=record.phase if record else "confirm")
    recorded = {evaluation.step: evaluation for evaluation in record.evaluations} if record else {}
    last = record.steps if record and record.status == "stopped" else config.max_steps
    for evaluation in trial:
        yield evaluation, recorded.get(evaluation.step)
        if evaluation.step >= last:
            break
    made = trial.finish(artifact=artifact)
    pairs = [(e, recorded[e.step]) for e in made.evaluations if e.step in recorded]
    accuracies = [abs(new.selection_accuracy - old.selection_accuracy) for new, old in pairs]
    if record and made.test_accuracy is not None and record.test_accuracy is not None:
        accuracies.append(abs(made.test_accuracy - record.test_accuracy))
    losses = [abs(new.selection_loss - old.selection_loss) for new, old in pairs]
    yield Replayed(made, max(accuracies, default=None), max(losses, default=None))


def differing(config: TrialConfig, made: TrialRecord, record: TrialRecord) -> list[str]:
    """What of the surroundings is not as it was when the record was made, in words."""
    then, now = record.provenance, made.provenance
    found = [
        f"{name} {then['versions'].get(name)} → {now['versions'].get(name)}"
        for name in ("torch", "transformers", "tokenizers")
        if then.get("versions") and then["versions"].get(name) != now["versions"].get(name)
    ]
    if then.get("commit") != now.get("commit"):
        found.append(f"commit {str(then.get('commit'))[:10]} → {str(now.get('commit'))[:10]}")
    for name in ("gpu", "cpu"):
        before, after = (about.get("hardware", {}).get(name) for about in (then, now))
        if before != after:
            found.append(f"{name} {before} → {after}")
    if made.key != record.key:  # only what is settled on this machine can differ
        values = made.config
        found += [f"{n} {record.config[n]} → {values[n]}" for n in values if values[n] != record.config.get(n)]
    return found
