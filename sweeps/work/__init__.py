"""Training of trials inside a process, without Ray."""
