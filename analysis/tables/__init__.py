"""One module a table; each has a `SPEC` (see analysis/registry.py)."""
