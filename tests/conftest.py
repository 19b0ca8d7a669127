"""Fixtures that all tests share. No test reads the user's own data, caches or cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# These are set before torch is imported: for the small sizes of these tests, several threads only slow each other down.
# Commands that tests start set their own number of threads. If other work keeps the processors busy, threads that spin
# while they wait make a step ten times slower, and Ray's workers have a low priority by default.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported

from lopt import data, tokens
from lopt.config import TrialConfig
from tests.s3 import anywhere, s3, s3_server, url  # noqa: F401  # fixtures

settings.register_profile("lopt", deadline=None)  # no test asserts a duration
settings.load_profile("lopt")
ROOT = Path(__file__).resolve().parent.parent

_USER_VARIABLES = ("AWS_", "RAY_ADDRESS", "TUNE_", "LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_TEXT_CACHE_GB", "COLUMNS",
                   "NO_COLOR", "FORCE_COLOR", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONUNBUFFERED")  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _without_user_variables() -> Iterator[None]:
    """Hide the user's variables from the tests, and from all processes that tests and fixtures start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_USER_VARIABLES)]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _isolated_sources(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let a test see only the built-in sources of data and models, unless it sets others."""
    for name in ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tokens, "cache_folder", lambda: tmp_path_factory.getbasetemp() / "tokens")
    data._load_splits.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets and tokenizers: LOPT_TEST_SHARED, or beside the checkout. Tests skip without it."""
    folder = Path(os.environ.get("LOPT_TEST_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs real data sets and tokenizers in {folder}")
    return folder


@pytest.fixture
def tiny() -> TrialConfig:
    """A trial that takes milliseconds."""
    return TrialConfig(
        method="lopt1",
        task="toy",
        backbone="tiny",
        length=4,
        rank=2,
        learning_rate=0.1,
        batch_size=8,
        max_steps=6,
        eval_every=3,
        precision="fp32",
    )
