"""The exit codes of all commands."""

COMPLETE = 0
FAILED = 1  # anything that no other code says
USAGE_ERROR = 2
INCOMPLETE = 3  # a sweep is over, but a trial failed or a cell has no confirmed trial
BUDGET = 4  # a sweep stopped at a budget; the same command continues it
INTERRUPTED = 130  # Ctrl-C or SIGTERM
