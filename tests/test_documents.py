"""The documents list exactly what the program has, and their links lead to existing files and sections."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lopt import methods
from lopt.config import CONFIG_FIELDS
from lopt.records import TrialRecord
from sweeps.planning.settings import REFUSED_FIELDS
from sweeps.space import SPACE_FIELDS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def names_in_section(title):
    """Return the names in `code` in the first column of the table in a section of the reference."""
    text = (ROOT / "docs" / "reference.md").read_text()
    section_text = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    first_cells = [line.split("|")[1] for line in section_text.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_key_of_set_is_listed():
    assert names_in_section("Names for `--set`") == {*CONFIG_FIELDS, *SPACE_FIELDS} - REFUSED_FIELDS


def test_every_option_of_a_method_is_listed():
    assert names_in_section("Options of the methods") == methods.options()


def test_every_column_of_the_table_is_listed():
    values = {"key": "0" * 16, "config": {}, "phase": "search", "status": "complete", "width": 32, "steps": 1}
    counts = dict.fromkeys(("trainable_parameters", "stored_parameters", "materialised_parameters"), 1)
    row = TrialRecord(**values, **counts, max_steps=1).to_row()
    assert names_in_section("Columns of `trials.parquet`") == {*row}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_existing_files_and_sections(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path) if path else page
        assert linked.exists(), target
        if anchor and linked.suffix == ".md":
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target
