"""The name by which older methods import `lopt.initial`."""

from lopt.initial import *  # noqa: F403
