"""Records of failed trials."""

import traceback

from lopt import backbones, methods
from lopt.config import TrialConfig
from lopt.records import TrialRecord, collect_provenance


def error_entry(error: BaseException) -> dict[str, str]:
    """Return an exception as the `error` field of a record. Lone surrogates, which file names can contain, are written
    as escapes."""
    error_texts = {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    return {name: text.encode(errors="backslashreplace").decode() for name, text in error_texts.items()}


def failed_record(
    config: TrialConfig, error: BaseException, *, phase: str, cell: str | None, stratum: str | None, started_at: str
) -> TrialRecord:
    """Return the record of a trial that raised `error` before it began to train, or whose process died."""
    width, counts = backbones.facts(config.backbone).width, methods.counts_of(config)
    return TrialRecord(
        key=config.key,
        config=config.to_dict(),
        phase=phase,
        status="failed",
        cell=cell,
        stratum=stratum,
        width=width,
        trainable_parameters=counts.trainable,
        stored_parameters=counts.stored,
        materialised_parameters=counts.materialised,
        steps=0,
        max_steps=config.max_steps,
        started_at=started_at,
        error=error_entry(error),
        provenance=collect_provenance(data_revision=config.data_revision, model_revision=config.model_revision),
    )
