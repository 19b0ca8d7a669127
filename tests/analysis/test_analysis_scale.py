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


def write_large_run(root: Path, trials: int) -> Path:
    """Write a run with this number of trials.

    97 sizes of LoPT-1 and three full prompts are confirmed with three seeds each and have predictions. The other trials
    are search trials.
    """
    cells = [("prompt_tuning", n, None) for n in (10, 50, 100)]
    cells += [("lopt1", n, r) for n in range(5, 105, 5) for r in (1, 2, 3, 5, 8)][: 100 - len(cells)]
    run, generator = Store(root=root, name="large", cells=cells, test_n=872), np.random.default_rng(0)
    for method, length, rank in cells:
        for seed in range(3):
            accuracy = generator.uniform(0.7, 0.9)
            record = run.confirm(method, length, rank, accuracy, config__seed=seed)
            run.predict(record, generator.random(872) < accuracy)
    for number in range(trials - 3 * len(cells)):
        method, length, rank = cells[number % len(cells)]
        learning_rate, accuracy = float(generator.uniform(0.001, 1)), float(generator.uniform(0.5, 0.9))
        status, steps = ("stopped", 10) if number % 3 else ("complete", 50)
        run.search(
            method, length, rank, config__learning_rate=learning_rate, selection_accuracy=accuracy, status=status,
            steps=steps,
        )  # fmt: skip
    return run.write()


SLACK = 2.5  # for slow spells of shared machines; a time that grows faster than the run still exceeds the limit


@pytest.mark.slow
@pytest.mark.parametrize(("trials", "seconds"), [(1_000, 8), (10_000, 30)])
def test_the_report_of_a_large_run_takes_seconds(tmp_path, trials, seconds):
    run = write_large_run(tmp_path / "results", trials)
    process = subprocess.Popen([sys.executable, "analysis/report.py", str(run)], cwd=ROOT, stdout=subprocess.PIPE)
    assert b"report.html" in process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    print(f"{trials:,} trials: {usage.ru_utime + usage.ru_stime:.1f} s, {usage.ru_maxrss / 2**20:.2f} GiB")
    assert usage.ru_utime + usage.ru_stime <= seconds * SLACK
    assert usage.ru_maxrss <= 2 * 2**20, "2 GiB, in KiB"
    assert (run / "report" / "report.html").stat().st_size < 30_000_000
