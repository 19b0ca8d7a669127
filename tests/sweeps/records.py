"""Records as trials would leave them."""

from __future__ import annotations

from lopt.records import Evaluation, TrialRecord


def make_record(
    config, status="complete", accuracy=0.7, phase="search", cell=None, stratum=None, loss=0.5, steps=12, macro_f1=None
):
    evaluations = tuple(
        Evaluation(
            step=step,
            selection_accuracy=accuracy,
            selection_loss=loss,
            train_loss=0.5,
            top_class_share=0.5,
            wall_time_s=1.0,
            selection_macro_f1=macro_f1,
        )
        for step in range(4, steps + 1, 4)
        if accuracy is not None
    )
    return TrialRecord(
        key=config.key,
        config=config.to_dict(),
        phase=phase,
        status=status,
        cell=cell,
        stratum=stratum or cell,
        width=32,
        trainable_parameters=72,
        stored_parameters=72,
        materialised_parameters=128,
        steps=steps,
        max_steps=12,
        evaluations=evaluations,
        selection_accuracy=accuracy,
        selection_loss=loss,
        selection_step=evaluations[-1].step if evaluations else None,
        started_at=f"2026-01-01T00:00:{config.key[:2]}",
    )
