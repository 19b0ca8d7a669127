"""Fixtures of the tests with several machines. They skip where such machines cannot be made."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import machines

_MODULES = ("ray", "boto3", "moto", "aiohttp_cors", "opencensus")  # the last two: ray[default]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[machines.Network]:
    """A network for machines. All of them end with the module's last test."""
    if obstacle := machines.find_obstacle():
        pytest.skip(obstacle)
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: pip install -c constraints.txt -e '.[dev,cluster]'")
    mask = os.umask(0o022)
    folder = tmp_path_factory.mktemp("net")
    with machines.network(folder) as machine_network:
        yield machine_network
    os.umask(mask)


@pytest.fixture(scope="module")
def store(network: machines.Network) -> Path:
    """A folder that machines can share. It is a stand-in for a file server."""
    folder = network.folder / "store"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
