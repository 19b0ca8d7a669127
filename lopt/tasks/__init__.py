"""Tasks. A task says where the text comes from and which word stands for each class.

A file with a new task imports all that it needs from here. Importing this package imports neither torch nor a data
library.
"""

import os
from pathlib import Path

from lopt import registry
from lopt.tasks._folder import read_task_folder
from lopt.tasks._task import Division, Row, Task, is_utf8


def is_from_folder(task: Task) -> bool:
    """Return whether a folder's `task.toml` describes the task. Its name is then the folder's absolute path."""
    return os.path.isabs(task.name)


def get(name: object) -> Task:
    """Return the built-in task called `name`, or the task that the folder `name` describes in its `task.toml`.

    Raises:
        ValueError: there is no such task (the message lists the valid names), or the folder's task is invalid.
    """
    if isinstance(name, str) and name not in names():
        if "/" in name or os.path.isdir(name):
            return read_task_folder(Path(os.path.expanduser(name)))
        raise ValueError(
            f"unknown task {name!r}; valid: {', '.join(names())}, or a folder with a task.toml (there is no folder "
            f"{os.path.abspath(name)!r}).{registry.did_you_mean(name, names())}"
        )
    return registry.find("lopt.tasks", name, "task")


def names() -> list[str]:
    """Return the names of the built-in tasks."""
    return list(registry.plugins("lopt.tasks"))
