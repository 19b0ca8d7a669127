"""How the runs behind four rows of Table 2 were made, and how ours differ from them.

These are the rows of fine-tuning, LoRA, prompt tuning and DePT, which LoPT takes from DePT's paper (arXiv 2309.05173).
Source: the code that was released with that paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.records import Trial

METHODS = ("fine_tuning", "lora", "prompt_tuning", "dept")
# Settings of DePT's released runs. UPDATE_TOKENS is how many text tokens get an update, the paper's s.
BATCH_SIZE, UPDATE_TOKENS, ADAM_EPS = 32, 256, 1e-6
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

COMMON_DIFFERENCES = {  # differences that each of `METHODS` can have, by the word that a table writes for them
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
    our_trial = trials[0]
    applies_by_word = {
        "answers": True,
        "dropout": not our_trial.dropout,
        "metric": task == "cb" and our_trial.metric != "macro_f1",
    }
    text_by_word = {word: text for word, text in COMMON_DIFFERENCES.items() if applies_by_word[word]}
    if our_trial.method != "dept" or task not in DEPT_RUNS:
        return text_by_word
    their_run = DEPT_RUNS[task]
    if (our_trial.length, our_trial.rank) != (their_run.length, their_run.rank):
        text_by_word["size"] = (
            f"(m, r) = ({our_trial.length}, {our_trial.rank}) here, ({their_run.length}, {their_run.rank}) there"
        )
    if our_trial.max_steps != their_run.steps:
        text_by_word["steps"] = f"{our_trial.max_steps or 0:,} here, {their_run.steps:,} there"
    if our_trial.batch_size != BATCH_SIZE:
        text_by_word["batch size"] = f"{our_trial.batch_size} here, {BATCH_SIZE} there"
    if our_trial.update_tokens != UPDATE_TOKENS:
        text_by_word["update tokens"] = f"s = {our_trial.update_tokens} here, {UPDATE_TOKENS} there"
    if (our_epsilon := our_trial.adam_eps or _DEFAULT_ADAM_EPS) != ADAM_EPS:
        text_by_word["epsilon"] = f"AdamW's is {_format_number(our_epsilon)} here, {_format_number(ADAM_EPS)} there"
    return text_by_word


def _format_number(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-")


def released_runs_note(task_titles: dict[str, str]) -> str:
    """Describe DePT's released runs for a reader of the report. `task_titles` are the titles by task name."""
    run_texts = (
        f"{title} (m, r) = ({run.length}, {run.rank}), learning rates {run.learning_rate:g} (prompt) and "
        f"{run.update_learning_rate:g} (update), {run.steps:,} steps"
        for task, title in task_titles.items()
        if (run := DEPT_RUNS.get(task))
    )
    return (
        f"DePT's row consists of its released runs, one per task: {'; '.join(run_texts)}. Here m is the length of the "
        f"prompt and r is the rank of the update. All have batch size {BATCH_SIZE}, s = {UPDATE_TOKENS} update tokens, "
        f"and AdamW with epsilon {_format_number(ADAM_EPS)}."
    )
