"""The exit codes of all commands."""

COMPLETE = 0
FAILED = 1  # any failure that has no code of its own
USAGE_ERROR = 2
SWEEP_INCOMPLETE = 3  # a sweep has ended, but a trial failed or a cell has no confirmed trial
BUDGET_REACHED = 4  # a sweep stopped at a budget; the same command continues it
INTERRUPTED = 130  # Ctrl-C or SIGTERM
