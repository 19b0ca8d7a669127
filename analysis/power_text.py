"""What a design can decide, in words: for the plan of a sweep, and below the answer of a report."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.cells import Group
from analysis.comparisons import Comparison, comparisons, reference_cell
from analysis.noise import measured_noise
from analysis.power import MOST_SEEDS, TARGET_POWER, Design, Noise
from analysis.registry import Missing
from analysis.render import with_minus_signs

ONE_SEED_TEXT = "With one seed of each cell nothing can be tested, because the variance between seeds is unknown."
_TARGET_TEXT = f"{100 * TARGET_POWER:g} %"


@dataclass(frozen=True, kw_only=True)
class GroupPower:
    """The design of a group that has run, with the noise that its own cells show, and the comparisons that it made."""

    group: Group
    design: Design
    comparisons: tuple[Comparison, ...]


def design_sentences(design: Design) -> list[str]:
    """Say what a design can decide: the differences it can tell, the chances of its verdicts, and what would help."""
    cells_text = f"{design.cells} smaller cell{'s' * (design.cells > 1)}"
    return [
        f"With {design.examples:,} test examples, {design.seeds} seeds and {cells_text}, {_difference_text(design)}.",
        f"The chance to show a cell as good within {pp(design.margin)} is {_chances_text(design)}.",
        *filter(None, [limit_text(design)]),
    ]


def short_text(design: Design) -> str:
    """Say in one line what a design can decide, for a plan with several numbers of test examples."""
    half = design.margin / 2
    text = (
        f"{design.examples:,} test examples: tells {pp(design.smallest_difference())}; shows an equal cell in "
        f"{chance(design.power(0))}, one {pp(half)} worse in {chance(design.power(half))}"
    )
    if design.power(0) >= TARGET_POWER:
        return f"{text}."
    if design.with_unlimited_seeds.power(0) >= TARGET_POWER:
        seeds = design.seeds_needed(0)
        return f"{text}; {pp(design.margin)} takes {seeds or f'more than {MOST_SEEDS}'} seeds."
    examples = design.examples_needed(0)
    return f"{text}; {pp(design.margin)} takes {f'{_round_up(examples):,} examples' if examples else 'more examples'}."


def _difference_text(design: Design) -> str:
    return (
        f"the smallest difference from the margin that gets a verdict with a chance of {_TARGET_TEXT} is "
        f"{pp(design.smallest_difference())}"
    )


def _chances_text(design: Design) -> str:
    """Return the chances to show a cell non-inferior at a true gap of 0 and of half the margin."""
    half = design.margin / 2
    return (
        f"{chance(design.power(0))} if it equals the reference, {chance(design.power(half))} if it is {pp(half)} worse"
    )


def limit_text(design: Design) -> str:
    """Say what would show, with 80 % power, that a cell as good as the reference is non-inferior.

    Return an empty text if the design shows it.
    """
    if design.power(0) >= TARGET_POWER:
        return ""
    margin_text = f"a margin of {pp(design.smallest_difference())}"
    if design.with_unlimited_seeds.power(0) < TARGET_POWER:
        examples = design.examples_needed(0)
        more_text = f"at least {_round_up(examples):,} (and more seeds), or " if examples else ""
        return (
            f"{design.examples:,} test examples cannot show {pp(design.margin)} at any number of seeds. That takes "
            f"{more_text}{margin_text}."
        )
    seeds = design.seeds_needed(0)
    seeds_text = f"{seeds} seeds" if seeds else f"more than {MOST_SEEDS} seeds"
    return f"To show an equal cell with a chance of {_TARGET_TEXT} takes {seeds_text} of each cell, or {margin_text}."


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
    return GroupPower(
        group=group,
        design=Design(
            margin=group.margin,
            examples=examples,
            seeds=min(min(difference.seed_count_a, difference.seed_count_b) for difference in differences),
            cells=len(compared),
            noise=noise,
        ),
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
        *design_sentences(power.design),
        *([_observed_sentence(undecided[0], power.design)] if undecided else []),
        noise_sentence(power.design.noise, power.design.examples),
    ]


def _observed_sentence(comparison: Comparison, design: Design) -> str:
    """Say how many seeds would decide a cell if its true difference were the observed one, which is itself noisy."""
    mean = comparison.verdict.difference.mean
    seeds = design.seeds_needed(-mean)
    answer = f"about {seeds} seeds of each cell" if seeds else f"more than {MOST_SEEDS} seeds, or more test examples"
    observed_text = with_minus_signs(f"{100 * mean:+.1f} pp")
    return (
        f"{comparison.cell.label} is undecided. By its observed difference ({observed_text}), which is uncertain, "
        f"a verdict with a chance of {_TARGET_TEXT} takes {answer}."
    )


def pp(fraction: float) -> str:
    """Write a fraction in percentage points, with two significant digits, or three from 10 pp on."""
    return f"{100 * fraction:.{'3g' if fraction >= 0.1 else '2g'}} pp"


def chance(power: float) -> str:
    """Write a chance in whole percent. It is simulated, so 0 and 100 % are not certain."""
    return "less than 1 %" if power < 0.01 else "more than 99 %" if power > 0.99 else f"{100 * power:.0f} %"


def _round_up(count: int) -> int:
    """Round a count up to two significant digits."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return -(-count // unit) * unit
