"""Trains a recorded trial again and compares the result with its record:
python -m lopt run --config results/<run>/trials/<key>.json"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lopt.config import TrialConfig
from lopt.locations import to_location
from lopt.records import Evaluation, TrialRecord


@dataclass(frozen=True)
class ReplayResult:
    """A trial that was trained again, and how far it is from its record.

    Attributes:
        record: the record of the new training.
        accuracy_difference: the largest difference between a new accuracy and the recorded one, as a fraction. It is
            taken over the evaluations and the reported split. None if there is nothing to compare.
        loss_difference: the largest difference between a new held-out loss and the recorded one, in nats. None if there
            is nothing to compare.
    """

    record: TrialRecord
    accuracy_difference: float | None
    loss_difference: float | None


def read_trial(
    file: str | Path, *, task: str | None = None, backbone: str | None = None
) -> tuple[TrialConfig, TrialRecord | None]:
    """Read a trial's record, or a configuration alone, from a JSON file. Return the configuration and the record.

    Args:
        file: a path or a URL.
        task, backbone: the folders of task and backbone, if they are no longer where the file says.

    Raises:
        ValueError: the file holds neither a record nor a configuration, or a folder that it names does not exist.
    """
    path = to_location(file)
    try:
        json_values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # RecursionError: lists nested too deeply
        raise ValueError(
            f"--config {path} cannot be read as JSON ({error}); give results/<run>/trials/<key>.json"
        ) from None
    if not isinstance(json_values, dict):
        raise ValueError(f"--config {path} does not hold a JSON object; give results/<run>/trials/<key>.json")
    record = TrialRecord.from_dict(json_values) if "schema_version" in json_values else None
    config_values = {**(record.config if record else json_values)}
    for name, replacement in (("task", task), ("backbone", backbone)):
        folder = config_values.get(name)
        if replacement is not None:
            config_values[name] = replacement
        elif isinstance(folder, str) and os.path.isabs(folder) and not os.path.isdir(folder):
            raise ValueError(f"{name} {folder!r} is not there: give the folder where it is now, --{name} FOLDER")
    return TrialConfig.from_dict(config_values), record


def replay(
    config: TrialConfig, record: TrialRecord | None = None, *, artifact: str | Path | None = None
) -> Iterator[tuple[Evaluation, Evaluation | None] | ReplayResult]:
    """Train a configuration in this process, up to the step where the recorded trial was stopped, or else to the
    end.

    Yields each evaluation together with the recorded one (None if there is none), and at the end a `ReplayResult`.
    Raises whatever the trial raises.
    """
    from lopt.training import Trial

    trial = Trial(config, phase=record.phase if record else "confirm")
    recorded_by_step = {evaluation.step: evaluation for evaluation in record.evaluations} if record else {}
    last_step = record.steps if record and record.status == "stopped" else config.max_steps
    for evaluation in trial:
        yield evaluation, recorded_by_step.get(evaluation.step)
        if evaluation.step >= last_step:
            break
    new_record = trial.finish(artifact=artifact)
    evaluation_pairs = [
        (new, recorded_by_step[new.step]) for new in new_record.evaluations if new.step in recorded_by_step
    ]
    accuracy_differences = [abs(new.selection_accuracy - old.selection_accuracy) for new, old in evaluation_pairs]
    if record and new_record.test_accuracy is not None and record.test_accuracy is not None:
        accuracy_differences.append(abs(new_record.test_accuracy - record.test_accuracy))
    loss_differences = [abs(new.selection_loss - old.selection_loss) for new, old in evaluation_pairs]
    yield ReplayResult(new_record, max(accuracy_differences, default=None), max(loss_differences, default=None))


def changed_conditions(new_record: TrialRecord, record: TrialRecord) -> list[str]:
    """Return what has changed since the record was made, each change in words: versions, commit, hardware, and settings
    that a configuration leaves to the machine (`lopt.resolve`)."""
    old_provenance, new_provenance = record.provenance, new_record.provenance
    changes = [
        f"{package} {old_provenance['versions'].get(package)} → {new_provenance['versions'].get(package)}"
        for package in ("torch", "transformers", "tokenizers")
        if old_provenance.get("versions")
        and old_provenance["versions"].get(package) != new_provenance["versions"].get(package)
    ]
    old_commit, new_commit = (str(provenance.get("commit"))[:10] for provenance in (old_provenance, new_provenance))
    if old_provenance.get("commit") != new_provenance.get("commit"):
        changes.append(f"commit {old_commit} → {new_commit}")
    for processor in ("gpu", "cpu"):
        old_name, new_name = (
            provenance.get("hardware", {}).get(processor) for provenance in (old_provenance, new_provenance)
        )
        if old_name != new_name:
            changes.append(f"{processor} {old_name} → {new_name}")
    if new_record.key != record.key:  # only the settings that are left to the machine can differ
        old_config = record.config
        changes += [
            f"{name} {old_config[name]} → {value}"
            for name, value in new_record.config.items()
            if value != old_config.get(name)
        ]
    return changes
