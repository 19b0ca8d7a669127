"""Pieces of work side by side."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from lopt.lanes import Lanes


@pytest.mark.parametrize("count", [1, 3])
def test_every_piece_is_done_once(count):
    done, lock = [], threading.Lock()

    def act(piece):
        with lock:
            done.append(piece)

    with Lanes(_backbone(), count) as lanes:
        lanes.run(act, iter(range(50)))
        lanes.run(act, [])
    assert sorted(done) == list(range(50))


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_arrives_and_the_rest_is_left_out(count):
    done = []

    def act(piece):
        if piece == 2:
            raise MemoryError("of piece 2")
        done.append(piece)

    with Lanes(_backbone(), count) as lanes, pytest.raises(MemoryError, match="of piece 2"):
        lanes.run(act, range(10_000))
    assert len(done) < 9_999


@pytest.mark.parametrize(
    ("device", "side_by_side", "expected"), [("cpu", True, 2), ("cpu", False, 1), ("cuda", True, 1)]
)
def test_how_many_suit_a_backbone(device, side_by_side, expected, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert Lanes(_backbone(device, side_by_side)).count == expected


def _backbone(device="cpu", side_by_side=True):
    return SimpleNamespace(device=SimpleNamespace(type=device), side_by_side=side_by_side)
