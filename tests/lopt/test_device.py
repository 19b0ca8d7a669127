"""The processors that a process may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lopt import device


def test_the_cpus_of_a_cpu_set_are_counted():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU sets")
    first_cpu = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{first_cpu}}})\n"
        "from lopt.device import usable_cpu_count\nfrom sweeps.work.process import set_threads\nimport torch\n"
        "torch.set_num_threads(4); set_threads(None); print(usable_cpu_count(), torch.get_num_threads())\n"
        "set_threads(3); print(torch.get_num_threads())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["1", "1", "1"]


def test_the_cpu_can_be_chosen_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("LOPT_DEVICE", raising=False)
    assert device.default_device().type == "cuda"
    monkeypatch.setenv("LOPT_DEVICE", "cpu")
    assert device.default_device().type == "cpu"
    monkeypatch.setenv("LOPT_DEVICE", "cuda:1")
    with pytest.raises(ValueError, match="LOPT_DEVICE is 'cuda:1': set it to cpu, or leave it out"):
        device.default_device()
