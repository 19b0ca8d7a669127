"""A page that shows a run while it goes on: `python analysis/report.py RUN --watch`. It only reads the store."""
