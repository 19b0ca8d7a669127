"""Ends a command with a one-line error when Python is too old. The commands import this file first for that effect.

Python 3.6 and newer can parse this file and the files of the commands.
"""

import sys

MINIMUM = (3, 11)  # as in pyproject.toml


def version_error(version):  # type: ignore[no-untyped-def]
    """Return the error message for a version, (major, minor, ...), or an empty text if it is new enough."""
    if tuple(version[:2]) >= MINIMUM:
        return ""
    needed, current = ("{}.{}".format(*pair[:2]) for pair in (MINIMUM, version))
    return (
        f"Python {needed} or newer is needed, and this is Python {current}: use a newer one, for example python{needed}"
    )


if version_error(sys.version_info):
    sys.stderr.write(f"error: {version_error(sys.version_info)}\n")
    sys.exit(2)
