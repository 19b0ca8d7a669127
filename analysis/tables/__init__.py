"""The tables, one module each; every module has a `SPEC` (see analysis/registry.py)."""
