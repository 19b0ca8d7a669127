"""Tasks: where the text comes from and how a class becomes a word.

All that a task of one's own needs is imported from here. Importing this package imports neither torch nor a data
library.
"""

import os
from pathlib import Path

from lopt import registry
from lopt.tasks._folder import task_of
from lopt.tasks._task import Division, Row, Task, in_utf8


def is_folder(task: Task) -> bool:
    """Whether a task is described by a folder's `task.toml`."""
    return os.path.isabs(task.name)


def get(name: object) -> Task:
    """The task named `name`, or described by the `task.toml` of a folder; ValueError lists the valid ones."""
    if isinstance(name, str) and name not in names():
        if "/" in name or os.path.isdir(name):
            return task_of(Path(os.path.expanduser(name)))
        raise ValueError(
            f"unknown task {name!r}; valid: {', '.join(names())}, or a folder with a task.toml (there is no folder "
            f"{os.path.abspath(name)!r}).{registry.nearest(name, names())}"
        )
    return registry.find("lopt.tasks", name, "task")


def names() -> list[str]:
    return list(registry.plugins("lopt.tasks"))
