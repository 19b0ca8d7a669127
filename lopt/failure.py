"""What is written down of a trial that raised."""

import traceback

from lopt import backbones, methods
from lopt.config import TrialConfig
from lopt.records import TrialRecord, provenance


def described(error: BaseException) -> dict[str, str]:
    """An exception as a record's `error`; half characters, as in names of files, are spelt out."""
    texts = type(error).__name__, str(error), "".join(traceback.format_exception(error))
    kind, message, trace = (text.encode(errors="backslashreplace").decode() for text in texts)
    return {"type": kind, "message": message, "traceback": trace}


def failed_record(
    config: TrialConfig, error: BaseException, *, phase: str, cell: str | None, stratum: str | None, started_at: str
) -> TrialRecord:
    """The record of a trial that raised before it began to train, or whose process died."""
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
        error=described(error),
        provenance=provenance(data_revision=config.data_revision, model_revision=config.model_revision),
    )
