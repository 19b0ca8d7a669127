"""Training of trials in a process, without Ray."""
