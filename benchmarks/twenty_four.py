"""The space of `benchmarks/chaos.py`: twelve cells, each with one search trial and one confirm trial.

    python sweeps/run.py --space benchmarks/twenty_four.py --set max_steps=100

No cell searches anything and no trial stops early, so the set of trials does not depend on timing. The trials of eight
cells share a backbone. The trials of the other four change their backbone and train in processes of their own.
"""

from sweeps.space import Cell, Space, Spec

BASE = {"task": "toy", "backbone": "tiny", "batch_size": 8, "max_steps": 400, "eval_every": 10, "precision": "fp32"}
PACKED_SETTINGS = (
    {"method": "prompt_tuning", "length": 4},
    {"method": "prompt_tuning", "length": 8},
    {"method": "lopt1", "length": 4, "rank": 2},
    {"method": "lopt1", "length": 8, "rank": 2},
    {"method": "lopt1", "length": 8, "rank": 4},
    {"method": "lopt2", "length": 4, "rank": 1},
    {"method": "dept", "length": 4, "rank": 2},
    {"method": "ulpt", "length": 8, "rank": 4},
)
ALONE_SETTINGS = (
    {"method": "lora", "rank": 1},
    {"method": "lora", "rank": 2},
    {"method": "fine_tuning", "learning_rate": 1e-3},
    {"method": "fine_tuning", "learning_rate": 1e-4},
)


def grid(axes):
    return tuple(
        Cell(name=name_cell(settings), fixed=settings, search={}) for settings in (*ALONE_SETTINGS, *PACKED_SETTINGS)
    )


def name_cell(settings):
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in settings.values())


def build(profile):
    return Space(
        name="twenty_four",
        title="Twenty-four trials to be killed",
        profile=profile,
        base=BASE,
        grid=grid,
        trials=1,
        confirm_seeds=1,
        grace_steps=1_000_000,
    )


SPEC = Spec("twenty_four", build)
