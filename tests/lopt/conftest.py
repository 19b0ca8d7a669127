"""Fixtures of the tests of lopt/."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tests.tiny_models import FAMILIES, make_model, make_tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny random models with their tokenizers, by family."""
    made = {family: tmp_path_factory.mktemp("models") / family for family in FAMILIES}
    for family, folder in made.items():
        make_model(family).save_pretrained(folder)
        make_tokenizer(family).save_pretrained(folder)
    return made


@pytest.fixture
def fp64_norms(monkeypatch):
    """Norms of Llama and T5 in fp64. As they come they take their variance in fp32, in which any two orders of a sum
    differ."""

    def norm(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(T5LayerNorm, "forward", norm)
