"""The built-in spaces, one in each module. The first lines of a module give its command, duration and results."""

import importlib.util
import os
from pathlib import Path
from reprlib import repr as truncate

from lopt import registry
from lopt.registry import did_you_mean
from sweeps.space import Space

PROFILES = ("paper", "demo")


def names() -> list[str]:
    """Return the names of the built-in spaces, sorted."""
    return list(registry.plugins("sweeps.spaces"))


def load(name: str, profile: str) -> Space:
    """Return the built-in space of that name, or the space that the SPEC of a file path/to/space.py builds.

    Raises:
        ValueError: The space or the profile is unknown, or the file does not define a space.
    """
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; valid: {', '.join(PROFILES)}.{did_you_mean(profile, PROFILES)}")
    if not name.endswith(".py"):
        return registry.find("sweeps.spaces", name, "space").build(profile)
    path = Path(name)
    if not os.path.isfile(path):
        raise ValueError(f"space file {name!r} does not exist; the built-in spaces are {', '.join(names())}")
    module_spec = importlib.util.spec_from_file_location(f"user_space_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        space = module.SPEC.build(profile)
    except (Exception, SystemExit) as error:  # SystemExit would end this command with the file's exit code
        raise ValueError(f"space file {name!r} does not define a space: {type(error).__name__}: {error}") from None
    if not isinstance(space, Space):
        raise ValueError(f"space file {name!r} does not define a space: its SPEC builds {truncate(space)}, not a Space")
    return space
