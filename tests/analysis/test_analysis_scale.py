"""Reports of large runs: processor time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.conftest import Store

ROOT = Path(__file__).resolve().parents[2]


def large(root: Path, trials: int) -> Path:
    """A run of so many trials: 97 sizes of LoPT-1 and three full prompts, each confirmed with three seeds, predictions
    beside them; the rest are search trials."""
    cells = [("prompt_tuning", n, None) for n in (10, 50, 100)]
    cells += [("lopt1", n, r) for n in range(5, 105, 5) for r in (1, 2, 3, 5, 8)][: 100 - len(cells)]
    s, draw = Store(root=root, name="large", cells=cells, test_n=872), np.random.default_rng(0)
    for method, length, rank in cells:
        for seed in range(3):
            accuracy = draw.uniform(0.7, 0.9)
            record = s.confirm(method, length, rank, accuracy, config__seed=seed)
            s.predict(record, draw.random(872) < accuracy)
    for number in range(trials - 3 * len(cells)):
        method, length, rank = cells[number % len(cells)]
        rate, accuracy = float(draw.uniform(0.001, 1)), float(draw.uniform(0.5, 0.9))
        status, steps = ("stopped", 10) if number % 3 else ("complete", 50)
        s.search(
            method, length, rank, config__learning_rate=rate, selection_accuracy=accuracy, status=status, steps=steps
        )
    return s.write()


SLACK = 2.5  # shared machines have slow spells; what grows faster than the run would still be seen


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "seconds"), [(1_000, 8), (10_000, 30)])
def test_a_large_run_has_its_report_soon(tmp_path, trials, seconds):
    run = large(tmp_path / "results", trials)
    process = subprocess.Popen([sys.executable, "analysis/report.py", str(run)], cwd=ROOT, stdout=subprocess.PIPE)
    assert b"report.html" in process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    print(f"{trials:,} trials: {used.ru_utime + used.ru_stime:.1f} s, {used.ru_maxrss / 2**20:.2f} GiB")
    assert used.ru_utime + used.ru_stime <= seconds * SLACK
    assert used.ru_maxrss <= 2 * 2**20, "KiB"
    assert (run / "report" / "report.html").stat().st_size < 30_000_000
