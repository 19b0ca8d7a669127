"""Folders of tasks and models that lay elsewhere in a part of the trials: with one content they are one."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_REVISIONS = {"task": "data_revision", "backbone": "model_revision"}


class Folders:
    """Gives each folder one path, the first that it is met under. Those of one name and one content are one."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, object], str] = {}
        self._paths: dict[str, str] = {}

    def in_one_place(self, config: Mapping[str, Any], planned: Iterable[Any]) -> dict[str, Any]:
        """A trial's configuration with its folders at their one path. planned: the cells of its run, whose folders are
        where they lay when the run last went on."""
        moved = dict(config)
        for field, revision in _REVISIONS.items():
            path = config.get(field)
            known = config.get(revision) is not None  # without it two folders of one name may hold anything
            if known and isinstance(path, str) and Path(path).is_absolute():
                name = Path(path).name
                latest = (getattr(cell, field) for cell in planned if Path(getattr(cell, field)).name == name)
                latest_path = next(latest, path)
                first = self._first.setdefault((field, name, str(config.get(revision))), latest_path)
                self._paths |= {path: first, latest_path: first}
                moved[field] = first
        return moved

    def of(self, path: str) -> str:
        """The one path of a folder of a plan or a baseline; anything else as it is."""
        return self._paths.get(path, path)
