"""Fixtures with a stand-in for S3 in this process. Tests that use them are skipped if its packages are missing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

SKIP_REASON = "needs s3fs and moto[server]: pip install -e '.[dev]'"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of the server."""
    pytest.importorskip("s3fs", reason=SKIP_REASON)
    server = pytest.importorskip("moto.server", reason=SKIP_REASON).ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTING")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["folder", "memory", "s3"])
def anywhere(request: pytest.FixtureRequest) -> str:
    """A location for results: a folder, a file system in memory, and S3 in turn."""
    if request.param == "folder":
        return str(request.getfixturevalue("tmp_path"))
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("s3")


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """A location for results behind a URL: a file system in memory, and S3 in turn."""
    return f"memory://{uuid.uuid4().hex}" if request.param == "memory" else request.getfixturevalue("s3")
