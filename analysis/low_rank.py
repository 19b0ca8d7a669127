"""Is a trained full prompt low-rank? What the files `low_rank/<key>.json` of the confirmed seeds say about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from analysis.cells import Cell, Group
from analysis.methods import method_label
from analysis.records import Trial, grouped
from analysis.registry import Missing
from analysis.render import bounds, percent
from analysis.scores import estimate_score
from analysis.stats import Estimate, estimate
from lopt.low_rank import LowRank
from lopt.metrics import ACCURACY

FACTORED = "lopt1"  # the method whose prompt has rank r from the start


@dataclass(frozen=True, kw_only=True)
class FullPromptRank:
    """How low-rank the confirmed full prompts of one cell are.

    Attributes:
        seeds: the file of each confirmed seed that has one that can be used.
        left_out_keys: the keys of the confirmed seeds whose file does not fit their trial.
        factored_accuracies: for the confirmed cells of LoPT-1 with the same prompt length, (rank, accuracy), by rank.
    """

    cell: Cell
    seeds: tuple[LowRank, ...]
    left_out_keys: tuple[str, ...]
    factored_accuracies: tuple[tuple[int, Estimate], ...]

    @property
    def length(self) -> int:
        return self.cell.length or 0

    @property
    def seeds_text(self) -> str:
        """The number of seeds, such as "3 seeds", or "2 of 3 seeds" if some have no file."""
        return self._seeds_text(len(self.seeds))

    def _seeds_text(self, count: int) -> str:
        seed_count = len(self.cell.confirmed_trials)
        return f"{f'{count} of ' * (count < seed_count)}{seed_count} seed{'s' * (seed_count > 1)}"

    @property
    def cut_seeds(self) -> tuple[LowRank, ...]:
        """The files of the seeds whose cuts were scored. These are the first few seeds (`lopt.low_rank.CUT_SEEDS`)."""
        return tuple(seed for seed in self.seeds if seed.cuts)

    @property
    def cut_seeds_text(self) -> str:
        """The number of these seeds, such as "3 of 8 seeds"."""
        return self._seeds_text(len(self.cut_seeds))

    @cached_property
    def cut_accuracies(self) -> tuple[tuple[int, Estimate], ...]:
        """(rank, accuracy) of the prompts after they were cut to this rank, by rank.

        Only ranks that all seeds with cuts have.

        The interval is `stats.estimate`, because the predictions of a cut prompt are not stored.
        """
        cuts_by_rank = grouped((cut for seed in self.cut_seeds for cut in seed.cuts), lambda cut: cut.rank)
        return tuple(
            (rank, estimate([cut.test_accuracy for cut in cuts], cuts[0].test_n))
            for rank, cuts in sorted(cuts_by_rank.items())
            if len(cuts) == len(self.cut_seeds)
        )

    @cached_property
    def uncut_accuracy(self) -> Estimate:
        """The accuracy of the whole prompts of the seeds whose cuts were scored."""
        keys = {seed.key for seed in self.cut_seeds}
        trials = [trial for trial in self.cell.confirmed_trials if trial.key in keys]
        accuracy = estimate_score(trials, ACCURACY)
        assert accuracy
        return accuracy

    @property
    def left_out_text(self) -> str:
        """A sentence that names the files that do not fit their trial, or an empty text."""
        if not self.left_out_keys:
            return ""
        files = ", ".join(f"low_rank/{key}.json" for key in self.left_out_keys)
        return f"Left out, because the number of singular values or of examples is not that of the trial: {files}."

    @property
    def stable_rank(self) -> float:
        """The stable rank of the trained prompt, the mean over seeds."""
        return fmean(seed.stable_rank for seed in self.seeds)

    @property
    def initial_stable_rank(self) -> float:
        """The stable rank of the initial values, the mean over seeds."""
        return fmean(seed.initial_stable_rank for seed in self.seeds)


def full_prompt_ranks(group: Group) -> tuple[FullPromptRank, ...] | Missing:
    """Return one entry for each confirmed cell whose full prompts were cut after training.

    The first entry has the most cells of LoPT-1 to compare with, and among such entries the most parameters.
    """
    entries = []
    for cell in group.confirmed_cells:
        pairs = [(trial, group.low_rank[trial.key]) for trial in cell.confirmed_trials if trial.key in group.low_rank]
        entry = FullPromptRank(
            cell=cell,
            seeds=tuple(low_rank for trial, low_rank in pairs if _fits(low_rank, trial)),
            left_out_keys=tuple(trial.key for trial, low_rank in pairs if not _fits(low_rank, trial)),
            factored_accuracies=_factored_accuracies(group, cell.length),
        )
        if entry.cut_accuracies:
            entries.append(entry)
    if not entries:
        return Missing("it needs confirmed full prompts with files low_rank/KEY.json")
    entries.sort(
        key=lambda entry: (-len(entry.factored_accuracies), -(entry.cell.trainable_parameters or 0), entry.cell.name)
    )
    return tuple(entries)


def _fits(low_rank: LowRank, trial: Trial) -> bool:
    """Return whether a file has as many singular values as the prompt of its trial, and as many test examples."""
    length, number_count = trial.length or 0, trial.materialised_parameters or 0
    value_count = min(length, number_count // length) if length and number_count else len(low_rank.singular_values)
    return len(low_rank.singular_values) == value_count and all(cut.test_n == trial.test_n for cut in low_rank.cuts)


def _factored_accuracies(group: Group, length: int | None) -> tuple[tuple[int, Estimate], ...]:
    ranks = {cell.rank for cell in group.confirmed_cells if (cell.method, cell.length) == (FACTORED, length)}
    cells_by_rank = {rank: group.find(FACTORED, length, rank) for rank in sorted(filter(None, ranks))}
    return tuple((rank, cell.plain_accuracy) for rank, cell in cells_by_rank.items() if cell and cell.plain_accuracy)


def low_rank_details(group: Group) -> list[str]:
    """Return what the answer says about the rank of the full prompts; nothing if no full prompt was cut."""
    entries = full_prompt_ranks(group)
    if isinstance(entries, Missing):
        return []
    entry = entries[0]
    cut_accuracy_by_rank, factored_accuracy_by_rank = dict(entry.cut_accuracies), dict(entry.factored_accuracies)
    common_ranks = cut_accuracy_by_rank.keys() & factored_accuracy_by_rank.keys()
    rank = max(common_ranks or cut_accuracy_by_rank)
    are_several = len(entry.seeds) > 1
    prompts, have, they, reach = (
        ("prompts", "have", "they", "reach") if are_several else ("prompt", "has", "it", "reaches")
    )
    most = len(entry.seeds[0].singular_values)
    rank_text = (
        f"Is the prompt low-rank? The trained {prompts} of {entry.cell.label} ({entry.seeds_text}) {have} a stable "
        f"rank of {entry.stable_rank:.1f}{' on average' if are_several else ''}, against "
        f"{entry.initial_stable_rank:.1f} before training; {most} is the most that is possible."
    )
    seeds_note = f" ({entry.cut_seeds_text})" if len(entry.cut_seeds) < len(entry.seeds) else ""
    cut_text = (
        f"Cut to rank {rank} after training, {they} {reach} {_accuracy_text(cut_accuracy_by_rank[rank])} on the test "
        f"examples{seeds_note}, and uncut {_accuracy_text(entry.uncut_accuracy)}."
    )
    factored_text = (
        f"{method_label(FACTORED)} of the same length, trained at rank {rank}, reaches "
        f"{_accuracy_text(factored_accuracy_by_rank[rank])}."
        if rank in factored_accuracy_by_rank
        else f"No {method_label(FACTORED)} of the same length is confirmed at rank {rank}."
    )
    sentences = [rank_text, cut_text, factored_text, "The brackets are 95 % intervals.", entry.left_out_text]
    return [" ".join(filter(None, sentences))]


def _accuracy_text(accuracy: Estimate) -> str:
    return f"{percent(accuracy.mean)} % {bounds(accuracy)}"
