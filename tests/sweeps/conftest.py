from __future__ import annotations

import pytest

from lopt.training import Trial
from sweeps.run import main


@pytest.fixture
def cut_off(monkeypatch):
    """Return a function that runs a command and interrupts it after five steps of its first trial."""

    def run(*command):
        original_update, steps = Trial.update, []

        def update(self):
            if len(steps) == 5:
                raise KeyboardInterrupt
            steps.append(self.step)
            return original_update(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trial, "update", update)
            assert main(list(command)) == 130

    return run
