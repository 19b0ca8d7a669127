"""What looks save: seeds and power of `--until-decided`, beside a fixed design with 20 seeds, by simulation.

    python benchmarks/looks.py [--sweeps 4000] [--figure docs/figures/looks.svg]

Prints, for several numbers of test examples and spreads of seeds, the margin at which the fixed design shows an equal
cell with a certain power; the power of both designs at this margin; the mean seeds of the looks, as a fraction of 20;
and the chance of any wrong verdict if cells lie exactly at the margin. The figure shows power and mean seeds against
the true difference, at a margin of 2 pp with 2,022 examples.
"""

import argparse
import math
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from matplotlib.figure import Figure

from analysis import style
from analysis.group_sequential import SequentialDesign, make_design
from analysis.power import ASSUMED_NOISE, Noise
from analysis.sequential_power import Chances, simulate_sweeps

SEEDS = 20
MARGIN, EXAMPLES, FIGURE_SPREADS = 0.02, 2022, (0.01, 0.04)


def noise(seed_sd: float) -> Noise:
    return Noise(seed_sd=seed_sd, seed_disagreement=0.1, example_sd=0.15, source="simulated")


def both_designs(
    margin: float, gaps: list[float], examples: int, seed_sd: float, sweeps: int
) -> tuple[Chances, Chances]:
    """Return the chances of the looks and of the fixed design."""
    looks = make_design(margin, first_look=3, most_seeds=SEEDS, examples=examples, noise=ASSUMED_NOISE)
    fixed = SequentialDesign(margin=margin, looks=(SEEDS,), times=(1.0,))
    chances = [
        simulate_sweeps(design, gaps=gaps, examples=examples, noise=noise(seed_sd), sweeps=sweeps, random_seed=1)
        for design in (looks, fixed)
    ]
    return chances[0], chances[1]


def margin_with_power(examples: int, seed_sd: float, power: float, sweeps: int) -> float:
    """Return the margin at which the fixed design shows an equal cell with this power."""
    low, high = 0.0, 10 * math.sqrt(0.15**2 / examples + 4 / examples**2 + noise(seed_sd).seed_variance(examples) / 10)
    for _ in range(20):
        middle = (low + high) / 2
        _, fixed = both_designs(middle, [0.0], examples, seed_sd, sweeps)
        low, high = (middle, high) if fixed.power < power else (low, middle)
    return high


def print_grid(sweeps: int) -> None:
    print(
        "| N | spread, pp | margin, pp | power of 20 seeds | power of looks | mean seeds / 20 | wrong: 1, 3, 9 cells |"
    )
    print("|---|---|---|---|---|---|---|")
    for examples in (277, 872, 2022, 7600):
        for seed_sd in (0.005, 0.01, 0.02, 0.04):
            for power in (0.8, 0.9, 0.95, 0.98):
                margin = margin_with_power(examples, seed_sd, power, sweeps)
                looks, fixed = both_designs(margin, [0.0], examples, seed_sd, sweeps)
                wrong = [both_designs(margin, [margin] * n, examples, seed_sd, sweeps)[0].wrong for n in (1, 3, 9)]
                print(
                    f"| {examples:,} | {100 * seed_sd:g} | {100 * margin:.2f} | {100 * fixed.power:.1f} | "
                    f"{100 * looks.power:.1f} | {looks.seeds:.2f} | {', '.join(f'{100 * w:.1f}' for w in wrong)} |",
                    flush=True,
                )


@style.in_style
def draw(sweeps: int) -> Figure:
    figure = Figure(figsize=(7.2, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    gaps = [MARGIN * i / 10 for i in range(21)]
    for seed_sd, colour in zip(FIGURE_SPREADS, ("blue", "orange"), strict=True):
        pairs = [both_designs(MARGIN, [gap], EXAMPLES, seed_sd, sweeps) for gap in gaps]
        x = [100 * gap for gap in gaps]
        label = f"spread of seeds {100 * seed_sd:g} pp"
        left.plot(x, [100 * looks.power for looks, _ in pairs], color=style.COLOURS[colour], label=label)
        left.plot(x, [100 * fixed.power for _, fixed in pairs], color=style.COLOURS[colour], linestyle=(0, (2, 2)))
        right.plot(x, [SEEDS * looks.seeds for looks, _ in pairs], color=style.COLOURS[colour], label=label)
    for axes in (left, right):
        axes.axvline(100 * MARGIN, color=style.MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlabel("true difference from the reference, pp worse")
    left.set_ylabel("right verdict, %")
    left.set_ylim(0, 102)
    left.set_title("solid: looks; dashed: 20 seeds", fontsize=8.5, loc="left")
    right.set_ylabel("mean seeds")
    right.set_ylim(0, SEEDS + 1)
    right.axhline(SEEDS, color=style.INK, linewidth=0.8, linestyle=(0, (2, 2)))
    right.legend(frameon=False, fontsize=8.5, loc="lower right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sweeps", type=int, default=4000)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the figure instead of printing the table")
    arguments = parser.parse_args()
    if arguments.figure:
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(arguments.sweeps).savefig(arguments.figure)
    else:
        print_grid(arguments.sweeps)


if __name__ == "__main__":
    main()
