"""CMA-ES (Hansen 2016, arXiv 1604.00772), for cells that search two or more ranges and nothing else."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from lopt.ranges import Choice
from sweeps.samplers import Sampler, StudyNeeds

if TYPE_CHECKING:
    from optuna.samplers import CmaEsSampler

    from sweeps.space import Cell


def make(needs: StudyNeeds) -> CmaEsSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=needs.sampler_seed)


def check(cell: Cell) -> None:
    unsuitable_names = [
        name for name, searched_range in cell.search.items() if isinstance(searched_range, Choice) or "." in name
    ]
    if unsuitable_names or len(cell.search) < 2:
        search_text = "only one range" if cell.search else "nothing"
        raise ValueError(
            "sampler cma_es needs cells that search two ranges or more, no list, and no setting of a single method "
            f"(METHOD.NAME); cell {cell.name} searches {', '.join(unsuitable_names) or search_text}. Give another "
            "sampler, such as tpe"
        )
    if importlib.util.find_spec("cmaes") is None:
        raise ValueError("sampler cma_es needs the package cmaes: pip install 'lopt-sweep[cma-es]'")


SPEC = Sampler(name="cma_es", make=make, check=check, random_trial_count=lambda trials: max(2, min(5, trials // 4)))
