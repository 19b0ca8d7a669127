"""The folders of tasks and backbones: one path for each, even if it was moved between trials, and a short name."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_REVISION_FIELDS = {"task": "data_revision", "backbone": "model_revision"}


class Folders:
    """Gives each folder one canonical path.

    Folders with the same name and the same revision (a fingerprint of the content) count as one folder. Its canonical
    path is that in the plan of the first run that used it, or in the first trial if that plan does not name it.
    """

    def __init__(self) -> None:
        self._path_by_folder: dict[tuple[str, str, object], str] = {}
        self._canonical_path_by_path: dict[str, str] = {}

    def with_canonical_paths(self, config: Mapping[str, Any], planned_cells: Iterable[Any]) -> dict[str, Any]:
        """Return a trial's configuration with the canonical paths of its folders.

        Args:
            config: the trial's configuration.
            planned_cells: the cells in the plan of the trial's run. They hold the paths that the folders had when the
                run was last continued.
        """
        config = dict(config)
        for field, revision_field in _REVISION_FIELDS.items():
            path, revision = config.get(field), config.get(revision_field)
            has_revision = revision is not None  # without revisions, folders with the same name may differ in content
            if has_revision and isinstance(path, str) and Path(path).is_absolute():
                folder_name = Path(path).name
                planned_paths = (getattr(cell, field) for cell in planned_cells)
                latest_path = next(
                    (planned_path for planned_path in planned_paths if Path(planned_path).name == folder_name), path
                )
                canonical_path = self._path_by_folder.setdefault((field, folder_name, str(revision)), latest_path)
                self._canonical_path_by_path |= {path: canonical_path, latest_path: canonical_path}
                config[field] = canonical_path
        return config

    def canonical_path(self, path: str) -> str:
        """Return the canonical path of a folder that a plan or a baseline names. Any other name is returned as is."""
        return self._canonical_path_by_path.get(path, path)


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return a short name for each path or plain name: the shortest end of it that no other path has.

    If there is no such end, the path itself is returned.
    """
    parts_by_path = {path: [part for part in path.split("/") if part] for path in paths}

    def short_name(path: str) -> str:
        parts_of_others = [other_parts for other_path, other_parts in parts_by_path.items() if other_path != path]
        for part_count in range(1, len(parts_by_path[path]) + 1):
            ending = parts_by_path[path][-part_count:]
            if all(ending != other_parts[-part_count:] for other_parts in parts_of_others):
                return "/".join(ending)
        return path

    return {path: short_name(path) for path in parts_by_path}
