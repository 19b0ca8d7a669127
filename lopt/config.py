"""What one trial is: a frozen configuration whose content hash is the trial's key."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Self

from lopt import methods, tasks
from lopt.migrations import OPTIONS, SETTINGS, without_later
from lopt.registry import nearest
from lopt.settings import TrialSettings
from lopt.tasks import Task


@dataclass(frozen=True, kw_only=True)
class TrialConfig(TrialSettings):
    """One trial. What its settings leave to the method, task and backbone is filled in at construction, so that a
    record always says what was used, and a key always means the same trial.

    Args:
        described: the task itself, where it need not be looked up by its name; it is not stored.

    Raises:
        ValueError: names the field, what came and what is valid; or a task's folder cannot be read, or, of a task that
            has another template for causal models, the backbone's config.
    """

    described: InitVar[Task | None] = None

    def __post_init__(self, described: Task | None) -> None:
        super().__post_init__()
        for name, value in completed(self, described).items():
            object.__setattr__(self, name, value)  # the dataclass is frozen; only construction fills in defaults

    @property
    def key(self) -> str:
        """16 hexadecimal digits that hash every field; of a folder its name, for revisions say what is in it."""
        return key_of(self.to_dict())

    @property
    def shares_backbone(self) -> bool:
        """Whether it can train in the same passes as other trials. Else it trains alone, on a model of its own."""
        return methods.get(self.method).shares_backbone and not self.dropout

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values; `from_dict` restores an equal configuration."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return {**fields, "options": dict(self.options), "label_words": list(self.label_words or ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], described: Task | None = None) -> Self:
        """Inverse of `to_dict`. described: as of the class. ValueError for a key that is no field, naming the nearest
        valid one, or a required field that is missing."""
        if not isinstance(values, Mapping):
            raise ValueError(f"a trial is {values!r}; give a mapping of its settings")
        for name in values:
            if name not in FIELDS:
                raise ValueError(f"unknown setting {name!r}; valid: {', '.join(FIELDS)}.{nearest(name, FIELDS)}")
        if missing := [name for name in ("method", "task") if name not in values]:
            raise ValueError(f"a trial needs {', '.join(missing)}: give {'it' if len(missing) == 1 else 'them'}")
        return cls(**values, described=described)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated again."""
        return dataclasses.replace(self, **changes)


def completed(settings: TrialSettings, described: Task | None = None) -> dict[str, Any]:
    """The fields that depend on the method, task and backbone, checked and with their defaults filled in; ValueError as
    of `TrialConfig`."""
    method, task = methods.get(settings.method), described or tasks.get(settings.task)
    filled = {n: value for n, value in dataclasses.asdict(method.recipe).items() if getattr(settings, n) is None}
    filled["task"] = task.name  # of a folder its whole path, wherever the work goes on
    if method.uses_length and settings.length is None:
        filled["length"] = methods.DEFAULT_LENGTH
    length = filled.get("length", settings.length)
    filled["options"] = method.check(length=length, rank=settings.rank, options=settings.options)
    template = task.template_for(settings.backbone) if settings.template is None else settings.template
    words = task.label_words if settings.label_words is None else tuple(settings.label_words)
    task.check_verbalizer(template, words)
    return {**filled, "template": template, "label_words": words}


def known_as(name: str) -> str:
    """What a key knows a task or backbone by: of a folder its name, wherever it lies."""
    return Path(name).name if Path(name).is_absolute() else name


def key_of(values: Mapping[str, Any]) -> str:
    """The key of a configuration from its `to_dict`, which need not be valid here: a method may be another program's.
    ValueError, TypeError, KeyError or AttributeError when it is no such thing."""
    described = without_later(values, SETTINGS)
    described["options"] = without_later(values["options"], OPTIONS)
    for name in ("task", "backbone"):
        described[name] = known_as(described[name])
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


FIELDS = tuple(f.name for f in dataclasses.fields(TrialConfig))
