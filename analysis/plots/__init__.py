"""One module a figure; each has a `SPEC` (see analysis/registry.py)."""
