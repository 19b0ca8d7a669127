"""How the runs behind four rows of Table 2 were made, and how ours differ from them.

These are the rows of fine-tuning, LoRA, prompt tuning and DePT, which LoPT takes from DePT's paper (arXiv 2309.05173).
Source: the code that was released with that paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.records import Trial

METHODS = ("fine_tuning", "lora", "prompt_tuning", "dept")
BATCH_SIZE, UPDATE_TOKENS, ADAM_EPS = 32, 256, 1e-6  # of DePT's released runs; UPDATE_TOKENS is the paper's s
_DEFAULT_ADAM_EPS = 1e-8  # the default of PyTorch, which trials used before there was a setting


@dataclass(frozen=True, kw_only=True)
class ReleasedRun:
    """The settings of the run that DePT released for one task.

    Attributes:
        length: the length of the prompt, the paper's m.
        rank: the rank of the update of the text's embeddings, the paper's r.
        learning_rate: the learning rate of the prompt.
        update_learning_rate: the learning rate of the update.
        steps: the number of training steps.
    """

    length: int
    rank: int
    learning_rate: float
    update_learning_rate: float
    steps: int


DEPT_RUNS = {
    "sst2": ReleasedRun(length=60, rank=30, learning_rate=0.3, update_learning_rate=5e-4, steps=30_000),
    "boolq": ReleasedRun(length=40, rank=45, learning_rate=0.3, update_learning_rate=5e-3, steps=30_000),
    "rte": ReleasedRun(length=60, rank=30, learning_rate=0.4, update_learning_rate=1e-4, steps=30_000),
    "wic": ReleasedRun(length=60, rank=30, learning_rate=0.3, update_learning_rate=1e-3, steps=20_000),
    "cb": ReleasedRun(length=60, rank=30, learning_rate=0.4, update_learning_rate=1e-4, steps=30_000),
}

PROTOCOL = (
    "The runs behind Table 2's rows of fine-tuning, LoRA, prompt tuning and DePT train with dropout on, because their "
    "trainer leaves the frozen T5 in training mode. They score generated answers, for which the full vocabulary "
    "competes. Here dropout is off unless a trial sets it, and only the label words of the classes compete."
)

COMMON_DIFFERENCES = {  # those that each of `METHODS` can have, by the word that names the difference in a table
    "answers": "here the label words of the classes compete, there answers are generated over the full vocabulary",
    "dropout": "off in training here, on there",
    "metric": "CB is selected by accuracy here, by macro-F1 there",
}


def differences(trials: Sequence[Trial], task: str) -> dict[str, str]:
    """Return how our confirmed trials differ from the published run of the same method and task.

    Learning rates are not compared, since they are searched.

    Args:
        trials: the confirmed trials of one configuration, which differ only in their seeds.
        task: the task's name.

    Returns:
        For each difference a word that names it, and a text with our value ("here") and theirs ("there"). Empty for a
        method that is not one of `METHODS`.
    """
    if not trials or trials[0].method not in METHODS:
        return {}
    ours = trials[0]
    is_different = {
        "answers": True,
        "dropout": not ours.dropout,
        "metric": task == "cb" and ours.metric != "macro_f1",
    }
    texts = {word: values for word, values in COMMON_DIFFERENCES.items() if is_different[word]}
    if ours.method != "dept" or task not in DEPT_RUNS:
        return texts
    theirs = DEPT_RUNS[task]
    if (ours.length, ours.rank) != (theirs.length, theirs.rank):
        texts["size"] = f"(m, r) = ({ours.length}, {ours.rank}) here, ({theirs.length}, {theirs.rank}) there"
    if ours.max_steps != theirs.steps:
        texts["steps"] = f"{ours.max_steps or 0:,} here, {theirs.steps:,} there"
    if ours.batch_size != BATCH_SIZE:
        texts["batch size"] = f"{ours.batch_size} here, {BATCH_SIZE} there"
    if ours.update_tokens != UPDATE_TOKENS:
        texts["update tokens"] = f"s = {ours.update_tokens} here, {UPDATE_TOKENS} there"
    if (eps := ours.adam_eps or _DEFAULT_ADAM_EPS) != ADAM_EPS:
        texts["epsilon"] = f"AdamW's is {_format_number(eps)} here, {_format_number(ADAM_EPS)} there"
    return texts


def _format_number(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-")


def released_runs_note(task_titles: dict[str, str]) -> str:
    """Describe DePT's released runs for a reader of the report. `task_titles` are the titles by task name."""
    runs = (
        f"{title} (m, r) = ({run.length}, {run.rank}), learning rates {run.learning_rate:g} (prompt) and "
        f"{run.update_learning_rate:g} (update), {run.steps:,} steps"
        for task, title in task_titles.items()
        if (run := DEPT_RUNS.get(task))
    )
    return (
        f"DePT's row consists of its released runs, one per task: {'; '.join(runs)}. Here m is the length of the "
        f"prompt and r is the rank of the update. All have batch size {BATCH_SIZE}, s = {UPDATE_TOKENS} update tokens, "
        f"and AdamW with epsilon {_format_number(ADAM_EPS)}."
    )
