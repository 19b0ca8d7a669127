"""Spaces: one module each; its first lines say the command, the expected time and the result."""

import importlib.util
import os
from pathlib import Path
from reprlib import repr as shortened

from lopt import registry
from lopt.registry import nearest
from sweeps.space import Space

PROFILES = ("paper", "demo")


def names() -> list[str]:
    """Names of the built-in spaces, sorted."""
    return list(registry.plugins("sweeps.spaces"))


def load(name: str, profile: str) -> Space:
    """The space of that name, or of a file path/to/space.py with a SPEC.

    Raises:
        ValueError: unknown space or profile, or a file that holds no space.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; valid: {', '.join(PROFILES)}.{nearest(profile, PROFILES)}")
    if not name.endswith(".py"):
        return registry.find("sweeps.spaces", name, "space").build(profile)
    path = Path(name)
    if not os.path.isfile(path):
        raise ValueError(f"space file {name!r} does not exist; valid names: {', '.join(names())}")
    described = importlib.util.spec_from_file_location(f"user_space_{path.stem}", path)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
        space = module.SPEC.build(profile)
    except (Exception, SystemExit) as error:  # the second would end this command with the file's exit code
        raise ValueError(f"space file {name!r} gives no space: {type(error).__name__}: {error}") from None
    if not isinstance(space, Space):
        raise ValueError(f"space file {name!r} gives no space: its SPEC builds {shortened(space)}")
    return space
