from __future__ import annotations

import pytest

from lopt.training import Trial
from sweeps.run import main


@pytest.fixture
def cut_off(monkeypatch):
    """Runs a command that is interrupted in the fifth step of its first trial."""

    def run(*command):
        honest, steps = Trial.update, []

        def update(self):
            if len(steps) == 5:
                raise KeyboardInterrupt
            steps.append(self.step)
            return honest(self)

        with monkeypatch.context() as patch:
            patch.setattr(Trial, "update", update)
            assert main(list(command)) == 130

    return run
