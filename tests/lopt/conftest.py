"""Fixtures of the tests of lopt/."""

from __future__ import annotations

import pytest

from tests.tiny_models import FAMILIES, make_model, make_tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny random models with their tokenizers, by family."""
    made = {family: tmp_path_factory.mktemp("models") / family for family in FAMILIES}
    for family, folder in made.items():
        make_model(family).save_pretrained(folder)
        make_tokenizer(family).save_pretrained(folder)
    return made
