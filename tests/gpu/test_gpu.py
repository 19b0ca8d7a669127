"""What only a GPU can show. These tests are skipped where PyTorch finds none: `make test-gpu` runs them."""

from __future__ import annotations

import gc
import importlib.util
import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from lopt import backbones, memory
from lopt.config import TrialConfig
from lopt.engine import Engine
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from lopt.training import Trial
from tests.tiny_models import make_tokenizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU on this machine"),
]
FAMILIES = ("gpt2", "t5")
# Relative differences of gradients between two right forms: bf16 rounds in every layer.
ROUNDING = {"fp32": 2e-3, "bf16": 0.1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of models that are large enough for the kernels of a GPU: width 256, four heads of 64."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 280, "d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 4, "num_heads": 4}
    models = {
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=280, n_embd=256, n_layer=4, n_head=4, n_positions=256)),
        "t5": T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)),
    }
    model_folders = {family: tmp_path_factory.mktemp("models") / family for family in FAMILIES}
    for family, folder in model_folders.items():
        with torch.no_grad():
            for parameter in models[family].parameters():
                if parameter.ndim > 1 and family == "gpt2":
                    parameter.mul_(3)
        models[family].save_pretrained(folder)
        make_tokenizer(family).save_pretrained(folder)
    return model_folders


def make_trial(folder, seed, precision, **changes):
    config = TrialConfig(
        task="toy", backbone=str(folder), method="lopt1", length=6, rank=2, learning_rate=0.05, max_steps=8,
        eval_every=4, batch_size=8, precision=precision, selection_examples=16, max_tokens=64, seed=seed, **changes,
    )  # fmt: skip
    return Trial(config, phase="search")


def engine_of(trials, **options):
    engine = Engine(**options)
    for trial in trials:
        engine.admit(trial)
    return engine


def relative_difference(result, expected):
    return float((result.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-9))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_flat_form_is_taken_and_equals_the_plain_form(folders, family, precision):
    """Label logits and the gradients of prefixes and suffixes of several lengths."""
    backbone = backbones.load(str(folders[family]), precision)
    assert backbone.device.type == "cuda"
    assert backbone.flat is not None
    if family == "gpt2":
        assert backbone.flat.use_varlen_kernel == (precision == "bf16")
    generator = torch.Generator().manual_seed(0)
    leaves = [(0.3 * torch.randn(length, 256, generator=generator)).cuda().requires_grad_() for length in (4, 4, 7, 5)]
    placements = [PLACEMENTS[name] for name in ("prefix", "prefix", "prefix", "suffix")]
    prompts = [SoftPrompt(prompt=leaf, placement=place) for leaf, place in zip(leaves, placements, strict=True)]
    packed = PackedPrompts(prompts=prompts, prompt_indices=[0, 1, 2, 3] * 4)
    lengths_B = torch.randint(2, 40, (16,), generator=generator)
    ids_BT = torch.randint(1, 250, (16, 40), generator=generator)
    flat_form, results = backbone.flat, []
    try:
        for form in (flat_form, None):
            backbone.flat = form
            logits_BC = backbone.label_logits(packed, ids_BT, lengths_B, torch.tensor([3, 7, 9], device="cuda"))
            loss = torch.nn.functional.cross_entropy(logits_BC, torch.arange(16, device="cuda") % 3)
            results.append([logits_BC.detach(), *torch.autograd.grad(loss, leaves)])
    finally:
        backbone.flat = flat_form
    for flat, plain in zip(*results, strict=True):
        assert relative_difference(flat, plain) <= ROUNDING[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_equal_those_of_a_trial_alone(folders, family, placement, precision):
    options = {"options": {"placement": placement}}
    packed, alone = ([make_trial(folders[family], seed, precision, **options) for seed in range(3)] for _ in range(2))
    assert not engine_of(packed).update_trials()
    for trial in alone:
        trial.update()
    for trial, reference in zip(packed, alone, strict=True):
        for name, factor in trial.factors.items():
            assert factor.grad.norm() > 0
            assert relative_difference(factor.grad, reference.factors[name].grad) <= ROUNDING[precision]


@pytest.mark.parametrize("placement", ["prefix", "suffix"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_does_not_synchronise(folders, family, placement):
    """PyTorch raises at every call that makes the CPU wait for the GPU."""
    options = {"options": {"placement": placement}}
    engine = engine_of([make_trial(folders[family], seed, "bf16", **options) for seed in range(3)])
    engine.update_trials()  # the first step checks and stacks the trials, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        failures = engine.update_trials()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not failures


def test_trials_train_to_the_end_and_their_memory_is_given_back(folders):
    def train_all():
        engine = engine_of([make_trial(folders["gpt2"], seed, "bf16") for seed in range(4)])
        outcomes = list(engine)
        assert len(outcomes) == 8
        assert not any(isinstance(outcome, Exception) for _, outcome in outcomes)

    train_all()  # what stays for the whole process: the backbone and the kernels' workspaces
    gc.collect()
    memory.release_unused()
    bytes_before = torch.cuda.memory_allocated()
    train_all()
    gc.collect()
    memory.release_unused()
    assert torch.cuda.memory_allocated() <= bytes_before + 2**20


def test_a_pass_that_runs_out_of_memory_is_split(folders):
    trials, references = ([make_trial(folders["gpt2"], seed, "fp32") for seed in range(8)] for _ in range(2))
    engine, reference_engine = engine_of(trials, max_pass_tokens=10**6), engine_of(references)
    assert not reference_engine.update_trials()
    memory.release_unused()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    in_use_bytes = torch.cuda.memory_reserved()
    peak_bytes = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction((in_use_bytes + 0.4 * peak_bytes) / total_bytes)
    try:
        failures = engine.update_trials()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert not failures
    assert engine.max_pass_tokens < 10**6, f"it was never short of memory ({free_bytes} bytes were free)"
    for trial, reference in zip(trials, references, strict=True):
        for name, factor in trial.factors.items():
            assert relative_difference(factor, reference.factors[name]) <= ROUNDING["fp32"]


def test_a_smoke_sweep_in_this_process(tmp_path):
    for package in ("optuna", "ray"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    from sweeps.run import main

    arguments = ["--space", "smoke", "--local-mode", "--set", "max_steps=4", "--max-trials", "3"]
    assert main([*arguments, "--name", "on-gpu", "--out", str(tmp_path)]) in (0, 4)
    records = [json.loads(path.read_text()) for path in (tmp_path / "on-gpu" / "trials").glob("*.json")]
    assert records
    assert all(record["status"] in ("complete", "stopped") for record in records)
