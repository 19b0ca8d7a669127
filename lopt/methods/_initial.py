"""`lopt.initial` under its former name, which older method plugins import."""

from lopt.initial import *  # noqa: F403
