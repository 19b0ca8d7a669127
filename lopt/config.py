"""The configuration of one trial. It is frozen, and a hash of its content is the trial's key."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Self

from lopt import methods, tasks
from lopt.migrations import LATER_OPTIONS, LATER_SETTINGS, drop_later_defaults
from lopt.registry import did_you_mean
from lopt.settings import TrialSettings
from lopt.tasks import Task


@dataclass(frozen=True, kw_only=True)
class TrialConfig(TrialSettings):
    """The configuration of one trial.

    Construction fills in the settings that were left to the method, task and backbone. So a record always says what was
    used, and a key always means the same trial.

    Args:
        task_spec: the task, if it should not be looked up by its name. It is not stored.

    Raises:
        ValueError: a setting is invalid (the message names the field, its value and what is valid), a task's folder
            cannot be read, or the backbone's config cannot be read (only tasks with a second template, for causal
            models, need it).
    """

    task_spec: InitVar[Task | None] = None

    def __post_init__(self, task_spec: Task | None) -> None:
        super().__post_init__()
        for name, value in fill_in_defaults(self, task_spec).items():
            object.__setattr__(self, name, value)  # the dataclass is frozen; only construction fills in defaults

    @property
    def key(self) -> str:
        """A hash of every field, in 16 hexadecimal digits. For a folder, only its name is hashed, not its path, because
        the revisions say what is in it."""
        return key_of_values(self.to_dict())

    @property
    def shares_backbone(self) -> bool:
        """Whether the trial can train in the same passes as other trials. If not, it trains alone on its own model."""
        return methods.get(self.method).shares_backbone and not self.dropout

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, from which `from_dict` makes an equal configuration."""
        fields = {name: getattr(self, name) for name in CONFIG_FIELDS}
        return {**fields, "options": dict(self.options), "label_words": list(self.label_words or ())}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], task_spec: Task | None = None) -> Self:
        """Return the configuration whose `to_dict` is `values`. `task_spec` is as in the class.

        Raises:
            ValueError: a key is not a field (the message names the nearest valid one), a required field is missing, or
                a value is invalid.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"a trial's configuration is {values!r}; give a mapping of its settings")
        for name in values:
            if name not in CONFIG_FIELDS:
                raise ValueError(
                    f"unknown setting {name!r}; valid: {', '.join(CONFIG_FIELDS)}.{did_you_mean(name, CONFIG_FIELDS)}"
                )
        if missing_names := [name for name in ("method", "task") if name not in values]:
            pronoun = "it" if len(missing_names) == 1 else "them"
            raise ValueError(f"a trial needs {', '.join(missing_names)}: give {pronoun}")
        return cls(**values, task_spec=task_spec)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`. The copy is validated again."""
        return dataclasses.replace(self, **changes)


def fill_in_defaults(settings: TrialSettings, task_spec: Task | None = None) -> dict[str, Any]:
    """Return the fields that depend on the method, task and backbone, by name. They are checked, with their defaults
    filled in.

    Raises:
        ValueError: as for `TrialConfig`.
    """
    from lopt import metrics  # imported here, because it brings numpy, which --help does not need

    method, task = methods.get(settings.method), task_spec or tasks.get(settings.task)
    recipe_settings = dataclasses.asdict(method.recipe)
    fields = {name: value for name, value in recipe_settings.items() if getattr(settings, name) is None}
    fields["task"] = task.name  # for a folder its absolute path, because workers have other working directories
    if method.uses_length and settings.length is None:
        fields["length"] = methods.DEFAULT_LENGTH
    length = fields.get("length", settings.length)
    fields["options"] = method.check(length=length, rank=settings.rank, options=settings.options)
    template = task.template_for(settings.backbone) if settings.template is None else settings.template
    label_words = task.label_words if settings.label_words is None else tuple(settings.label_words)
    task.check_verbalizer(template, label_words)
    traits = {"has_groups": bool(task.groups), "has_numbers": bool(task.class_numbers)}
    name = task.metric if settings.metric is None else settings.metric
    metric = metrics.get_for_task(name, task.classes, **traits)
    return {**fields, "template": template, "label_words": label_words, "metric": metric.name}


def reported_metrics(config: TrialConfig) -> list[str]:
    """Return the metrics that a trial's record gives: the one that selects, and those that its task reports."""
    task = tasks.get(config.task)
    return list(dict.fromkeys([str(config.metric), task.metric, *task.reports]))


def name_without_path(name: str) -> str:
    """Return the name of a task or backbone. If `name` is the path of a folder, this is the folder's own name."""
    return Path(name).name if Path(name).is_absolute() else name


def key_of_values(values: Mapping[str, Any]) -> str:
    """Return the key of the configuration whose `to_dict` is `values`.

    The configuration need not be valid here. For example, this program may not have its method.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: `values` is not a configuration.
    """
    hashed_values = drop_later_defaults(values, LATER_SETTINGS)
    hashed_values["options"] = drop_later_defaults(values["options"], LATER_OPTIONS)
    for name in ("task", "backbone"):
        hashed_values[name] = name_without_path(hashed_values[name])
    json_text = json.dumps(hashed_values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(json_text.encode()).hexdigest()[:16]


CONFIG_FIELDS = tuple(field.name for field in dataclasses.fields(TrialConfig))
