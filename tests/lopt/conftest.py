"""Fixtures for the tests of lopt/."""

from __future__ import annotations

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from tests.tiny_models import FAMILIES, make_model, make_tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny random models with their tokenizers, by family."""
    model_folders = {family: tmp_path_factory.mktemp("models") / family for family in FAMILIES}
    for family, folder in model_folders.items():
        make_model(family).save_pretrained(folder)
        make_tokenizer(family).save_pretrained(folder)
    return model_folders


@pytest.fixture
def fp64_norms(monkeypatch):
    """Make the norms of Llama and T5 compute in fp64.

    By default they compute their variance in fp32, where a sum depends on the order of its terms.
    """

    def norm(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(T5LayerNorm, "forward", norm)
