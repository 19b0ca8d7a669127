"""Lanes: calls of a function side by side."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from lopt.lanes import Lanes


@pytest.mark.parametrize("count", [1, 3])
def test_every_item_is_done_once(count):
    done, lock = [], threading.Lock()

    def function(item):
        with lock:
            done.append(item)

    with Lanes(_backbone(), count) as lanes:
        lanes.run(function, iter(range(50)))
        lanes.run(function, [])
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("count", [1, 3])
def test_an_exception_is_raised_and_the_remaining_items_are_skipped(count):
    done = []

    def function(item):
        if item == 2:
            raise MemoryError("of item 2")
        done.append(item)

    with Lanes(_backbone(), count) as lanes, pytest.raises(MemoryError, match="of item 2"):
        lanes.run(function, range(10_000))
    assert len(done) < 9_999


@pytest.mark.parametrize(
    ("device", "allows_parallel_passes", "expected"), [("cpu", True, 2), ("cpu", False, 1), ("cuda", True, 1)]
)
def test_the_number_of_lanes_suits_the_backbone(device, allows_parallel_passes, expected, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert Lanes(_backbone(device, allows_parallel_passes)).count == expected


def _backbone(device="cpu", allows_parallel_passes=True):
    return SimpleNamespace(device=SimpleNamespace(type=device), allows_parallel_passes=allows_parallel_passes)
