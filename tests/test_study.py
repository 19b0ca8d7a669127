"""Every number on the page of the study follows from the records that are kept beside it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[1] / "docs" / "study"


@pytest.fixture(scope="module")
def page():
    if not (STUDY / "run" / "manifest.json").is_file():
        pytest.skip("the study has no records yet")
    spec = importlib.util.spec_from_file_location("study_page", STUDY / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["study", "project"])
def test_the_pages_are_what_the_records_give(page, kind):
    file, text = {
        "study": (page.STUDY_PAGE, page.results_text()),
        "project": (page.PROJECT_PAGE, page.project_text()),
    }[kind]
    content = file.read_text()
    assert page.BEGIN in content and page.END in content
    assert page.page_with(content, text) == content, "python docs/study/page.py writes it again"


def test_the_figure_shows_each_confirmed_cell(page):
    assert page.FIGURE.read_text().count("<g") == page.figure_svg().decode().count("<g")


def test_a_changed_record_would_be_noticed(page, tmp_path, monkeypatch):
    text = page.results_text()
    run = tmp_path / "run"
    for file in (STUDY / "run").rglob("*"):
        if file.is_file() and file.name != sorted(path.name for path in (STUDY / "run" / "trials").iterdir())[0]:
            target = run / file.relative_to(STUDY / "run")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    monkeypatch.setattr(page, "RUN", run)
    assert page.results_text() != text
