"""What a design can decide, in words: for the plan of a sweep, and below the answer of a report."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from analysis.cells import Group
from analysis.comparisons import Comparison, comparisons, reference_cell
from analysis.noise import measured_noise
from analysis.power import MOST_EXAMPLES, MOST_SEEDS, TARGET_POWER, Design, Noise
from analysis.registry import Missing
from analysis.render import with_minus_signs

ONE_SEED_TEXT = "With one seed of each cell nothing can be tested, because the variance between seeds is unknown."
_TARGET_TEXT = f"{100 * TARGET_POWER:g} %"


@dataclass(frozen=True, kw_only=True)
class GroupPower:
    """The design of a group that has run, with the noise that its own cells show, and the comparisons that it made.

    Attributes:
        design: its number of seeds is the fewest of any compared cell and the reference.
        most_seeds: the most seeds of any of them.
    """

    group: Group
    design: Design
    most_seeds: int
    comparisons: tuple[Comparison, ...]

    @property
    def seeds_text(self) -> str:
        """The number of seeds, such as "2 seeds of each cell (the fewest here; the most are 6)"."""
        seeds = int(self.design.seeds)
        if self.most_seeds == seeds:
            return f"{seeds} seeds"
        return f"{seeds} seeds of each cell (the fewest here; the most are {self.most_seeds})"


def design_sentences(design: Design, seeds_text: str | None = None) -> list[str]:
    """Say what a design can decide: the differences it can tell, the chances of its verdicts, and what would help."""
    cells_text = f"{design.cells} smaller cell{'s' * (design.cells > 1)}"
    seeds_text = seeds_text or f"{design.seeds} seeds"
    return [
        f"With {design.examples:,} test examples, {seeds_text} and {cells_text}, {_difference_text(design)}.",
        f"The chance to show a cell as good within {pp(design.margin)} is {_chances_text(design)}.",
        *filter(None, [limit_text(design)]),
    ]


def short_text(design: Design) -> str:
    """Say in one line what a design can decide, for a plan with several numbers of test examples."""
    smallest = design.smallest_difference()
    told_text = pp(smallest) if smallest < 1 else "nothing below 100 pp"
    half = design.margin / 2
    equal_text, worse_text = ("equal cells", "cells") if design.cells > 1 else ("an equal cell", "one")
    text = (
        f"{design.examples:,} test examples: tells {told_text}; shows {equal_text} in {chance(design.power(0))}, "
        f"{worse_text} {pp(half)} worse in {chance(design.power(half))}"
    )
    if design.power(0) >= TARGET_POWER:
        return f"{text}."
    if design.with_unlimited_seeds.power(0) >= TARGET_POWER:
        seeds = design.seeds_needed(0)
        return f"{text}; {pp(design.margin)} takes {seeds or f'more than {MOST_SEEDS}'} seeds."
    examples = design.examples_needed(0)
    return f"{text}; {pp(design.margin)} takes {f'{_round_up(examples):,} examples' if examples else 'more examples'}."


def _difference_text(design: Design) -> str:
    smallest = design.smallest_difference()
    if smallest >= 1:
        return f"no difference below 100 pp from the margin gets a verdict with a chance of {_TARGET_TEXT}"
    condition = ", if all smaller cells have it," if design.cells > 1 else ""
    return (
        f"the smallest difference from the margin that gets a verdict with a chance of {_TARGET_TEXT}{condition} is "
        f"{pp(smallest)}"
    )


def _chances_text(design: Design) -> str:
    """Return the chances to show a cell non-inferior, if all smaller cells have a gap of 0 or of half the margin."""
    half = design.margin / 2
    equal_text, worse_text = ("all smaller cells equal", "all are") if design.cells > 1 else ("it equals", "it is")
    return (
        f"{chance(design.power(0))} if {equal_text} the reference, "
        f"{chance(design.power(half))} if {worse_text} {pp(half)} worse"
    )


def limit_text(design: Design) -> str:
    """Say what would show, with 80 % power, that cells as good as the reference are non-inferior.

    Return an empty text if the design shows it.
    """
    if design.power(0) >= TARGET_POWER:
        return ""
    smallest = design.smallest_difference()
    margin_text = f"a margin of {pp(smallest)}" if smallest < 1 else ""
    condition = f"If {'all smaller cells equal' if design.cells > 1 else 'the smaller cell equals'} the reference"
    if design.with_unlimited_seeds.power(0) < TARGET_POWER:
        examples = design.examples_needed(0)
        count_text = f"at least {_round_up(examples):,}" if examples else f"more than {MOST_EXAMPLES:,}"
        needed_text = ", or ".join(filter(None, [f"{count_text} examples (and more seeds)", margin_text]))
        return (
            f"{condition}, {design.examples:,} test examples keep this chance below {_TARGET_TEXT} at any number of "
            f"seeds. A chance of {_TARGET_TEXT} takes {needed_text}."
        )
    seeds = design.seeds_needed(0)
    seeds_text = f"{seeds} seeds of each cell" if seeds else f"more than {MOST_SEEDS} seeds of each cell"
    needed_text = ", or ".join(filter(None, [seeds_text, margin_text]))
    return f"{condition}, a chance of {_TARGET_TEXT} takes {needed_text}."


def examples_text(design: Design) -> str:
    """Say how many test examples a margin takes, whatever the number of seeds."""
    examples = design.examples_needed(0)
    if examples is None:
        return f"No number of them shows {pp(design.margin)} with a chance of {_TARGET_TEXT}."
    return f"To show {pp(design.margin)} with a chance of {_TARGET_TEXT}, at least {_round_up(examples):,} are needed."


def noise_sentence(noise: Noise, examples: int | None) -> str:
    """Say what the numbers rest on. The spread of seeds is that on so many test examples, or on very many if None."""
    seed_sd = noise.seed_variance(examples) ** 0.5 if examples else noise.seed_sd
    return (
        f"Noise ({noise.source}): standard deviations of {pp(seed_sd)} between seeds, and of "
        f"{pp(noise.example_sd)} between examples (difference of two cells)."
    )


def group_power(group: Group) -> GroupPower | Missing:
    """Return the design that a group's confirmed cells are, with their own noise; Missing if nothing was compared."""
    compared = comparisons(group)
    if isinstance(compared, Missing):
        return compared
    noise, examples = measured_noise(group), compared[0].cell.confirmed_trials[0].test_n or 0
    if noise is None or examples < 2:
        return Missing("it needs two confirmed cells with two seeds each, and two test examples")
    differences = [comparison.verdict.difference for comparison in compared]
    seed_counts = [count for d in differences for count in (d.seed_count_a, d.seed_count_b)]
    return GroupPower(
        group=group,
        design=Design(
            margin=group.margin,
            examples=examples,
            seeds=min(seed_counts),
            cells=len(compared),
            noise=noise,
        ),
        most_seeds=max(seed_counts),
        comparisons=compared,
    )


def power_sentences(group: Group) -> list[str]:
    """Say what the group's design can decide, and what would decide the smallest cell without a verdict."""
    power = group_power(group)
    if isinstance(power, Missing):
        seed_counts = {len(cell.confirmed_trials) for cell in group.confirmed_cells}
        return [ONE_SEED_TEXT] if seed_counts == {1} and reference_cell(group) else []
    undecided = [c for c in power.comparisons if c.verdict.outcome not in ("non-inferior", "inferior")]
    return [
        *design_sentences(power.design, power.seeds_text),
        *([_observed_sentence(undecided[0], power.design)] if undecided and not group.design else []),
        noise_sentence(power.design.noise, power.design.examples),
    ]


def _observed_sentence(comparison: Comparison, design: Design) -> str:
    """Say how many seeds would decide a cell if the true difference were the observed one, which is itself noisy."""
    mean = comparison.verdict.difference.mean
    seeds = design.seeds_needed(-mean)
    answer = f"about {seeds} seeds of each cell" if seeds else f"more than {MOST_SEEDS} seeds, or more test examples"
    observed_text = with_minus_signs(f"{100 * mean:+z.1f} pp")
    condition = "If all smaller cells" if design.cells > 1 else "If it"
    return (
        f"{comparison.cell.label} is undecided. {condition} had its observed difference ({observed_text}), which is "
        f"uncertain, a verdict with a chance of {_TARGET_TEXT} would take {answer}."
    )


def pp(fraction: float) -> str:
    """Write a fraction in percentage points, with two significant digits, or three from 10 pp on."""
    digits = f"{100 * fraction:.{'3g' if fraction >= 0.1 else '2g'}}"
    return f"{Decimal(digits):f} pp"  # never with an exponent


def chance(power: float) -> str:
    """Write a chance in whole percent. It is simulated, so 0 and 100 % are not certain."""
    return "less than 1 %" if power < 0.01 else "more than 99 %" if power > 0.99 else f"{100 * power:.0f} %"


def _round_up(count: int) -> int:
    """Round a count up to two significant digits."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
