"""How a run was made: its command, versions and hardware, and how long it took."""

import shlex
from dataclasses import dataclass
from datetime import datetime

from analysis import render
from analysis.runs import Run


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """How a run was made, for the page. `facts` are pairs of a label and a value."""

    run: str
    status: str
    command: str
    facts: tuple[tuple[str, str], ...]


def _duration_text(run: Run) -> str | None:
    """Return how long all commands of the run took together, with the prediction if there is one."""
    prediction = run.prediction
    if not prediction:
        return render.duration(run.elapsed_s) if run.elapsed_s else None
    low, high = render.duration(prediction.low_s), render.duration(prediction.high_s)
    spent_s = (run.elapsed_s or 0.0) - prediction.elapsed_before_s
    progress = f"took {render.duration(spent_s)}{'' if run.status == 'complete' else ' so far'}"
    return (
        f"predicted {low} to {high}, {progress if spent_s > 0 else 'nothing has run since'}; "
        f"{prediction.finished_count} of {prediction.trial_count} trials were finished when it was predicted"
    )


def _to_the_second(iso_time: object) -> object:
    """Return an ISO time without fractions of a second. Return anything else as it is."""
    try:
        return datetime.fromisoformat(str(iso_time)).isoformat(" ", "seconds")
    except ValueError:
        return iso_time


def provenance(run: Run) -> Provenance:
    manifest = run.manifest
    source = manifest.get("provenance") or {}
    command = manifest.get("command") or []
    space = manifest.get("space") or {}
    facts = {
        "space": ", profile ".join(str(space[key]) for key in ("name", "profile") if space.get(key)),
        "trials per cell": space.get("trials_per_cell"),
        "confirm seeds": space.get("confirm_seeds"),
        "started": _to_the_second(manifest.get("started_at")),
        "updated": _to_the_second(manifest.get("updated_at")),
        "time": _duration_text(run),
        "commit": f"{source.get('commit') or 'unknown'}{', unclean working tree' if source.get('dirty') else ''}",
        **{f"hardware: {key}": value for key, value in (source.get("hardware") or {}).items()},
        **{f"version: {key}": value for key, value in (source.get("versions") or {}).items()},
    }
    return Provenance(
        run=run.name,
        status=run.status,
        command=shlex.join(map(str, command)) if isinstance(command, list) else str(command),
        facts=tuple((key, str(value)) for key, value in facts.items() if value not in (None, "")),
    )
