"""What a run has written: records, checkpoints and the files that describe it."""
