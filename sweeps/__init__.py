"""Sweeps: which trials to run, when to stop them, where their results go."""
