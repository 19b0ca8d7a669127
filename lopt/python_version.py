"""Ends a command in one line where Python is too old for it. Importing this does so: the commands import it first.

This file, and those of the commands, can be parsed by Python 3.6 and newer.
"""

import sys

LEAST = (3, 11)  # as pyproject.toml says


def refusal(version):  # type: ignore[no-untyped-def]
    """What to say of a version, (major, minor, ...); empty where it will do."""
    if tuple(version[:2]) >= LEAST:
        return ""
    needed, here = ("{}.{}".format(*pair[:2]) for pair in (LEAST, version))
    return f"Python {needed} or newer is needed, and this is Python {here}: use another one, as in python{needed}"


if refusal(sys.version_info):
    sys.stderr.write(f"error: {refusal(sys.version_info)}\n")
    sys.exit(2)
