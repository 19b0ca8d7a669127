"""How the runs behind Table 2's rows of fine-tuning, LoRA, prompt tuning and DePT were made, and what of ours differs.

Sources: the code that DePT was released with (arXiv 2309.05173), from whose paper LoPT takes these rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.records import Trial

METHODS = ("fine_tuning", "lora", "prompt_tuning", "dept")
BATCH, UPDATE_TOKENS, EPS = 32, 256, 1e-6  # of DePT's runs: examples a step, s, and of AdamW
_USUAL_EPS = 1e-8  # PyTorch's, which trials had before there was a choice


@dataclass(frozen=True, kw_only=True)
class Release:
    """A released run of DePT, of which there is one a task: m, r, the rates of the prompt and of the update, steps."""

    length: int
    rank: int
    learning_rate: float
    update_learning_rate: float
    steps: int


DEPT = {
    "sst2": Release(length=60, rank=30, learning_rate=0.3, update_learning_rate=5e-4, steps=30_000),
    "boolq": Release(length=40, rank=45, learning_rate=0.3, update_learning_rate=5e-3, steps=30_000),
    "rte": Release(length=60, rank=30, learning_rate=0.4, update_learning_rate=1e-4, steps=30_000),
    "wic": Release(length=60, rank=30, learning_rate=0.3, update_learning_rate=1e-3, steps=20_000),
    "cb": Release(length=60, rank=30, learning_rate=0.4, update_learning_rate=1e-4, steps=30_000),
}

PROTOCOL = (
    "The runs behind Table 2's rows of fine-tuning, LoRA, prompt tuning and DePT train with dropout on (their trainer "
    "leaves the frozen T5 in training mode), on the full vocabulary, and score generated answers. Here dropout is off "
    "unless a trial says otherwise, and the classes' label words compete."
)


COMMON = {
    "answers": "the classes' label words compete; theirs are generated, over the full vocabulary",
    "dropout": "off in training; theirs is on",
    "metric": "CB is selected on accuracy; theirs on macro-F1",
}  # the words for what may differ in any of these methods


def differences(trials: Sequence[Trial], task: str) -> dict[str, str]:
    """What sets our confirmed trials apart from the published run of the same method and task, in a word each, with
    ours and theirs; the rates aside, which are searched. Empty of a method that is none of these."""
    if not trials or trials[0].method not in METHODS:
        return {}
    ours = trials[0]  # seeds of one configuration
    holds = {"answers": True, "dropout": not ours.dropout, "metric": task == "cb" and ours.metric != "macro_f1"}
    differing = {word: text for word, text in COMMON.items() if holds[word]}
    if ours.method != "dept" or task not in DEPT:
        return differing
    theirs = DEPT[task]
    if (ours.length, ours.rank) != (theirs.length, theirs.rank):
        differing["size"] = f"(m, r) = ({ours.length}, {ours.rank}), theirs ({theirs.length}, {theirs.rank})"
    if ours.max_steps != theirs.steps:
        differing["steps"] = f"{ours.max_steps or 0:,}, theirs {theirs.steps:,}"
    if ours.batch_size != BATCH:
        differing["batch"] = f"{ours.batch_size}, theirs {BATCH}"
    if ours.update_tokens != UPDATE_TOKENS:
        differing["s"] = f"{ours.update_tokens}, theirs {UPDATE_TOKENS}"
    if (eps := ours.adam_eps or _USUAL_EPS) != EPS:
        differing["eps"] = f"of AdamW {_shown(eps)}, theirs {_shown(EPS)}"
    return differing


def _shown(number: float) -> str:
    return f"{number:g}".replace("e-0", "e-")


def released(tasks: dict[str, str]) -> str:
    """DePT's released runs in a sentence. tasks: titles by name."""
    runs = (
        f"{title} (m, r) = ({run.length}, {run.rank}), rates {run.learning_rate:g} and {run.update_learning_rate:g}, "
        f"{run.steps:,} steps"
        for task, title in tasks.items()
        if (run := DEPT.get(task))
    )
    return (
        f"DePT's row is its released runs, one each: {'; '.join(runs)}; batch {BATCH}, s = {UPDATE_TOKENS}, AdamW with "
        f"eps {_shown(EPS)}."
    )
