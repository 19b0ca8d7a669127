"""Run sweeps: decide which trials run and when they stop, and keep their results."""
