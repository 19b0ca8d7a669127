"""The record of a trial, from its attributes."""

from typing import Any

from lopt import memory
from lopt.records import TrialRecord, collect_provenance


def make_record(trial: Any, status: str, **fields: Any) -> TrialRecord:
    """Return the record of a trial (`lopt.training.Trial`) in its present state.

    Args:
        fields: more fields of the record, by name.
    """
    examples_by_part = {"train": trial.data.train, "selection": trial.data.selection, "test": trial.data.test}
    best = trial.best
    return TrialRecord(
        key=trial.config.key,
        config=trial.config.to_dict(),
        phase=trial.phase,
        status=status,
        width=trial.backbone.width,
        trainable_parameters=trial.counts.trainable,
        stored_parameters=trial.counts.stored,
        materialised_parameters=trial.counts.materialised,
        steps=trial.step,
        abandoned_starts=trial.abandoned_starts,
        abandoned_steps=trial.abandoned_steps,
        max_steps=trial.config.max_steps,
        evaluations=tuple(trial.evaluations),
        selection_accuracy=best.selection_accuracy if best else None,
        selection_loss=best.selection_loss if best else None,
        selection_step=best.step if best else None,
        selection_n=len(trial.data.selection),
        truncated={name: part.truncated_count for name, part in examples_by_part.items()},
        protocol=trial.data.protocol,  # how the examples were drawn, in words
        wall_time_s=round(trial.elapsed_s, 3),
        train_time_s=round(trial.train_time_s, 3),
        evaluation_time_s=round(trial.evaluation_time_s, 3),
        peak_memory_bytes=memory.peak_bytes(trial.backbone.device) if trial.trains_alone else None,
        tokens=trial.tokens,
        started_at=trial.started_at,
        provenance=collect_provenance(data_revision=trial.data.revision, model_revision=trial.backbone.revision),
        **fields,
    )
