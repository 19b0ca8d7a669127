"""The task in the description of a trained prompt: how it is written, and how it is read."""

from collections.abc import Mapping
from typing import Any

from lopt.tasks import Task

# What the description's entry "task" holds of the task. Classes, template and label words have entries elsewhere.
_TASK_ATTRIBUTE_BY_ENTRY = {name: name for name in ("title", "columns", "groups", "class_numbers")} | {
    "cut": "cut_column"
}


def describe_task(task: Task) -> dict[str, Any]:
    """Return the description's entry "task"."""
    return {name: getattr(task, attribute) for name, attribute in _TASK_ATTRIBUTE_BY_ENTRY.items()}


def read_task(description: Mapping[str, Any]) -> Task | None:
    """Return the task as it was in training, or None for a description of format 1, which does not hold the task.

    Raises:
        ValueError, KeyError, TypeError: an entry of the task is missing or of the wrong kind.
    """
    if "task" not in description:
        return None
    config, entries, classes = description["config"], description["task"], description["classes"]
    text_lists = {"columns": entries["columns"], "classes": classes, "label_words": config["label_words"]}
    for name, texts in text_lists.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValueError(f"its `{name}` are not a list of texts")
        if len(set(texts)) < len(texts):
            raise ValueError(f"its `{name}` are not distinct")
    if entries["cut"] not in text_lists["columns"] or not all(
        isinstance(text, str) for text in (entries["title"], config["task"])
    ):
        raise ValueError("its task is incomplete")
    return Task(
        name=config["task"],
        title=entries["title"],
        columns=tuple(entries["columns"]),
        classes=tuple(classes),
        label_words=tuple(config["label_words"]),
        template=config["template"],
        cut_column=entries["cut"],
        groups=tuple(entries.get("groups", ())),  # older descriptions lack them and the numbers
        class_numbers=tuple(map(float, entries.get("class_numbers", ()))),
    )
