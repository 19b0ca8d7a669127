"""An invented results store for tests. None of its numbers is a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

WIDTH = 576
TABLE3 = [("prompt_tuning", 10, None), *(("lopt1", n, r) for n in (10, 20, 30) for r in (1, 2, 5))]


TABLE2: list[tuple[str, int | None, int | None]] = [
    ("fine_tuning", None, None), ("lora", None, 32), ("prompt_tuning", 100, None), ("dept", 40, 45),
    ("lopt1", 20, 5), ("lopt2", 20, 5),
]  # fmt: skip


def parameters(method: str, length: int | None, rank: int | None, width: int) -> int:
    if method == "fine_tuning":
        return 222_903_552
    if method == "lora":
        return 72 * (rank or 0) * 2 * width
    length = length or 0
    if rank is None:
        return length * width
    counts = {"lopt1": rank * (length + width), "dept": length * width + rank * (256 + width)}
    return counts.get(method, 2 * rank * width)


@dataclass
class Store:
    """Writes one run. `confirm` and `search` add records; `write` adds the manifest and the baselines."""

    root: Path
    name: str = "synthetic-run"
    backbone: str = "embedded"
    task: str = "movie_snippets"
    width: int = WIDTH
    test_split: str = "test"
    test_n: int = 600
    split_size: int = 2000
    cells: list[tuple[str, int | None, int | None]] = field(default_factory=lambda: list(TABLE3))
    record_count: int = 0

    @property
    def path(self) -> Path:
        return self.root / self.name

    def cell_name(self, method: str, length: int | None, rank: int | None) -> str:
        sizes = (f" n={length}" if length is not None else "", f" r={rank}" if rank is not None else "")
        return method + "".join(sizes)

    def record(self, method: str, length: int | None, rank: int | None, **changes: Any) -> dict[str, Any]:
        """Return a changed record of a search trial. `config__seed=2` changes the entry `seed` of `config`."""
        self.record_count += 1
        accuracy = changes.pop("selection_accuracy", 0.8)
        trainable = parameters(method, length, rank, self.width)
        name = self.cell_name(method, length, rank)
        record: dict[str, Any] = {
            "schema_version": 3,
            "key": changes.pop("key", sha256(f"{self.name} {self.record_count}".encode()).hexdigest()[:16]),
            "phase": "search",
            "status": "complete",
            "cell": name,
            "stratum": name,
            "config": {
                "method": method, "backbone": self.backbone, "task": self.task, "length": length, "rank": rank,
                "learning_rate": 0.1, "seed": 1, "batch_size": 16, "max_steps": 50, "eval_every": 10,
                "optimizer": "adafactor", "precision": "bf16", "label_words": [" bad", " great"], "options": {},
            },
            "width": self.width,
            "trainable_parameters": trainable,
            "stored_parameters": trainable,
            "materialised_parameters": (length or 0) * self.width,
            "steps": 50,
            "max_steps": 50,
            "evaluations": [
                {
                    "step": step,
                    "selection_accuracy": None if accuracy is None else round(0.5 + (accuracy - 0.5) * step / 50, 4),
                    "selection_loss": 0.6,
                    "train_loss": 0.66,
                    "top_class_share": 0.6,
                }
                for step in (10, 20, 30, 40, 50)
            ],
            "selection_accuracy": accuracy,
            "selection_loss": 0.5,
            "selection_step": 50,
            "selection_n": 128,
            "test_accuracy": None,
            "test_macro_f1": None,
            "test_n": None,
            "test_split": self.test_split,
            "test_split_size": self.split_size,
            "majority_accuracy": 0.52,
            "truncated": {"train": 0, "selection": 0, "test": 0},
            "protocol": "synthetic: selected on 128 held-out examples",
            "wall_time_s": 40.0,
            "train_time_s": 20.0 + 0.1 * (length or 0),
            "evaluation_time_s": 4.0,
            "test_time_s": None,
            "peak_memory_bytes": None,
            "tokens": 100_000,
            "started_at": "2001-01-01T00:00:00+00:00",
            "error": None,
            "provenance": {"commit": "0" * 40, "dirty": False, "versions": {}, "hardware": {}},
        }  # fmt: skip
        for key, value in changes.items():
            name, _, inner_name = key.partition("__")
            if inner_name:
                record[name][inner_name] = value
            else:
                record[name] = value
        return record

    def put(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write a record."""
        folder = self.path / "trials"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record['key']}.json").write_text(json.dumps(record))
        return record

    def search(self, method: str, length: int | None, rank: int | None, **changes: Any) -> dict[str, Any]:
        return self.put(self.record(method, length, rank, **changes))

    def confirm(
        self, method: str, length: int | None, rank: int | None, accuracy: float, **changes: Any
    ) -> dict[str, Any]:
        values = {
            "phase": "confirm",
            "test_accuracy": accuracy,
            "test_macro_f1": accuracy,
            "test_n": self.test_n,
            "test_time_s": self.test_n / (200 - (length or 0)),
            "selection_accuracy": accuracy,
        }
        return self.put(self.record(method, length, rank, **(values | changes)))

    def predict(self, record: dict[str, Any], correct: Sequence[bool] | np.ndarray) -> dict[str, Any]:
        """Write predictions of a trial, and put their accuracy into its record. `correct` says which are right."""
        folder = self.path / "predictions"
        folder.mkdir(parents=True, exist_ok=True)
        gold = np.arange(len(correct)) % 2
        predicted = np.where(np.asarray(correct, dtype=bool), gold, 1 - gold)
        rows = {"example_id": np.arange(len(correct)), "gold": gold, "predicted": predicted}
        pd.DataFrame(rows).to_parquet(folder / f"{record['key']}.parquet")
        return self.put({**record, "test_accuracy": float(np.mean(correct)), "test_n": len(correct)})

    def cut(self, record: dict[str, Any], losses: dict[int, float], **changes: Any) -> dict[str, Any]:
        """Write how low-rank a confirmed prompt is. `losses` says how much accuracy is lost by a cut to each rank."""
        generator = np.random.default_rng(record["config"]["seed"])
        length = record["config"]["length"]
        initial_PH = generator.uniform(-0.5, 0.5, (length, self.width))
        factors = generator.normal(0, 1.5, (length, 2)), generator.normal(0, 1, (2, self.width))
        values, initial_values = (
            np.linalg.svd(matrix, compute_uv=False) for matrix in (initial_PH + factors[0] @ factors[1], initial_PH)
        )
        content = {
            "schema_version": 1,
            "key": record["key"],
            "singular_values": values.tolist(),
            "initial_singular_values": initial_values.tolist(),
            "stable_rank": float((values**2).sum() / values[0] ** 2),
            "initial_stable_rank": float((initial_values**2).sum() / initial_values[0] ** 2),
            "cuts": [
                {"rank": rank, "test_accuracy": record["test_accuracy"] - loss, "test_n": self.test_n}
                for rank, loss in losses.items()
            ],
            "time_s": 1.5,
        } | changes
        folder = self.path / "low_rank"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{record['key']}.json").write_text(json.dumps(content))
        return content

    def write(self, status: str = "complete", baselines: bool = True, **changes: Any) -> Path:
        self.path.mkdir(parents=True, exist_ok=True)
        manifest = {
            "schema_version": 1,
            "run": self.name,
            "status": status,
            "command": ["python", "sweeps/run.py", "--space", "ablation", "--name", self.name],
            "started_at": "2001-01-01T00:00:00+00:00",
            "updated_at": "2001-01-01T01:00:00+00:00",
            "space": {
                "name": "ablation", "title": "synthetic", "profile": "demo", "trials_per_cell": 4, "confirm_seeds": 1,
                "base": {"backbone": self.backbone, "task": self.task},
                "cells": [
                    {
                        "name": self.cell_name(method, length, rank),
                        "config": {"method": method, "length": length, "rank": rank},
                        "trainable_parameters": parameters(method, length, rank, self.width),
                    }
                    for method, length, rank in self.cells
                ],
            },
            "provenance": {"commit": "0" * 40, "dirty": False, "versions": {"torch": "0"}, "hardware": {"cpu": "none"}},
        } | changes  # fmt: skip
        (self.path / "manifest.json").write_text(json.dumps(manifest))
        if baselines:
            baseline = {
                "backbone": self.backbone, "task": self.task, "test_split": self.test_split, "test_n": self.test_n,
                "zero_shot_accuracy": 0.58, "majority_accuracy": 0.51,
            }  # fmt: skip
            (self.path / "baselines.json").write_text(json.dumps([baseline]))
        return self.path

    def fill(self, seeds: int = 1, predictions: bool = False) -> Path:
        """Write all cells of Table 3, searched at four learning rates and confirmed, with predictions if asked.

        The full prompts are cut to lower ranks.
        """
        generator = np.random.default_rng(0)
        for i, (method, length, rank) in enumerate(self.cells):
            for j, learning_rate in enumerate((0.01, 0.03, 0.1, 0.3)):
                accuracy = 0.6 + 0.05 * j + 0.004 * i
                status = "stopped" if j == 0 else "complete"
                self.search(
                    method, length, rank, config__learning_rate=learning_rate, selection_accuracy=accuracy,
                    status=status,
                )  # fmt: skip
            for seed in range(seeds):
                accuracy = 0.83 + 0.004 * i % 0.03 + 0.003 * seed
                record = self.confirm(
                    method, length, rank, accuracy, config__seed=100 + seed, config__learning_rate=0.3
                )
                if predictions:
                    record = self.predict(record, generator.random(self.test_n) < accuracy)
                if method == "prompt_tuning" and length:
                    self.cut(record, {rank: 0.1 / rank for rank in (1, 2, 5, 10) if rank < length})
        return self.write()


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Store]:
    """Return a function that makes a run in one `results` folder: `store()`, `store(name=..., backbone=...)`."""
    return lambda **options: Store(root=tmp_path / "results", **options)


@pytest.fixture
def table2_cells() -> list[tuple[str, int | None, int | None]]:
    """One cell of each of the six methods of Table 2."""
    return list(TABLE2)


@pytest.fixture(scope="session")
def full_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of Table 3 with one seed a cell."""
    return Store(root=tmp_path_factory.mktemp("store") / "results").fill()
