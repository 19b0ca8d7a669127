"""Fixtures that all tests share. No test reads the user's own data, caches or cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: its threads only get into each other's way at the sizes of these tests. Commands that tests
# start set threads of their own: where other work keeps the processors busy, those that spin while they wait for one
# another make a step ten times as long, and Ray's niceness gives the rest away.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it then

from lopt import data, tokens
from lopt.config import TrialConfig
from tests.s3 import anywhere, s3, s3_server, url  # noqa: F401  # fixtures

settings.register_profile("lopt", deadline=None)  # no test asserts a time
settings.load_profile("lopt")
ROOT = Path(__file__).resolve().parent.parent


_OF_THE_USER = ("AWS_", "RAY_ADDRESS", "TUNE_", "LOPT_DATA_DIR", "LOPT_MODEL_DIR", "LOPT_TEXT_CACHE_GB", "COLUMNS",
                "NO_COLOR", "FORCE_COLOR", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONUNBUFFERED")  # fmt: skip


@pytest.fixture(autouse=True, scope="session")
def _without_the_users_settings() -> Iterator[None]:
    """Variables of the user's reach neither the tests nor the processes that they start, of whatever fixture."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_OF_THE_USER)]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see the built-in sources only, unless they ask for others."""
    for name in ("LOPT_DATA_DIR", "LOPT_MODEL_DIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tokens, "folder", lambda: tmp_path_factory.getbasetemp() / "tokens")
    data._load.cache_clear()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and tokenizers beside the checkout, or LOPT_TEST_SHARED; the test skips without them."""
    folder = Path(os.environ.get("LOPT_TEST_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs real data sets and tokenizers in {folder}")
    return folder


@pytest.fixture
def tiny() -> TrialConfig:
    """A trial of milliseconds."""
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
