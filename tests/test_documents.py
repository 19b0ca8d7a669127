"""What the documents list is what the program has, and their links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lopt import methods
from lopt.config import FIELDS
from lopt.records import TrialRecord
from sweeps.planning.settings import NOT_SETTABLE
from sweeps.space import SPACE_FIELDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def section(title):
    """Names in `code` in the first column of the section's table."""
    text = (ROOT / "docs" / "reference.md").read_text()
    found = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return {
        n for line in found.splitlines() if line.startswith("| `") for n in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def test_every_name_of_set_is_listed():
    assert section("Names for `--set`") == {*FIELDS, *SPACE_FIELDS} - NOT_SETTABLE


def test_every_option_of_a_method_is_listed():
    assert section("Options of the methods") == methods.options()


def test_every_column_of_the_table_is_listed():
    values = {"key": "0" * 16, "config": {}, "phase": "search", "status": "complete", "width": 32, "steps": 1}
    counts = dict.fromkeys(("trainable_parameters", "stored_parameters", "materialised_parameters"), 1)
    row = TrialRecord(**values, **counts, max_steps=1).flat()
    assert section("Columns of `trials.parquet`") == {*row}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target
