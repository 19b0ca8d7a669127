"""How many trials share a device."""

from __future__ import annotations

import math

import pytest

from lopt.training import Trial
from sweeps.work.packing import packed, room, tokens_a_step


@pytest.mark.parametrize(
    ("tokens", "good", "room", "expected"),
    [
        (16 * (10 + 30), 2048, math.inf, 3),  # 3.2 trials fill a pass: a fourth would need another
        (640, 1920, math.inf, 3),
        (100, 16384, math.inf, 16),  # never more than 16
        (5000, 2048, math.inf, 1),
        (640, 16384, 3000, 4),  # no more than memory holds
        (640, 16384, 100, 1),
    ],
)
def test_how_many_trials_fill_a_pass(tokens, good, room, expected):
    assert packed(tokens, good, room) == expected


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (3, 10),  # they share whatever there is
        (12, 12),  # rather than ten, then two
        (14, 14),
        (15, 8),  # two rounds
        (24, 12),
        (40, 10),
        (1000, 10),
        (math.inf, 10),  # nobody knows how many devices there will be
    ],
)
def test_trials_are_shared_out_evenly(trials, expected):
    assert packed(200, 2048, trials=trials) == expected


def test_sharing_out_takes_no_more_than_memory_holds():
    assert packed(200, 2048, room=2300, trials=14) == 11


def test_tokens_of_a_step_are_those_that_the_backbone_computes(tiny):
    trial = Trial(tiny)
    lengths = trial.data.train.lengths
    batch = min(tiny.batch_size, len(lengths))
    prefix = tokens_a_step(trial.backbone, tiny, trial.data)
    assert prefix == pytest.approx(batch * lengths.mean())  # the prompt is there once for all rows
    suffix = tokens_a_step(trial.backbone, tiny.replace(options={"placement": "suffix"}), trial.data)
    assert suffix < batch * (tiny.length + lengths.mean() / 7)  # texts are read, not computed


def test_a_cpu_has_room(tiny):
    trial = Trial(tiny)
    assert room(trial.backbone, trial.data, 4) == math.inf
