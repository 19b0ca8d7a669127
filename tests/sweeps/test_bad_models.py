"""Model folders that are incomplete, damaged or do not belong together: one line before any trial begins."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lopt import backbones
from sweeps.run import main
from tests.bad_input import called, line_of
from tests.tiny_models import make_model, make_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    make_model("llama").float().save_pretrained(folder)
    make_tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole, tmp_path):
    """A folder of one's own to spoil, and the arguments of a sweep with it."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    argv = ["--space", "smoke", "--local-mode", "--out", tmp_path / "out", "--set", f"backbone={folder}"]
    argv += ["--set", "trials=1", "--set", "max_steps=1", "--set", "precision=fp32"]
    return folder, argv


def refusal(argv, out):
    line = line_of(*called(main, *argv))
    assert not list(out.glob("*/trials")), "nothing is written"
    return line


def words(tokens):
    """A tokenizer of whole words."""
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def config_of(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_folder_that_the_others_spoil_and_a_tokenizer_without_padding(model):
    folder, argv = model
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = backbones.load(str(folder), "fp32")
    assert loaded.tokenizer.pad_token_id is None
    assert called(main, *argv)[0] == 0


def spoil_config(content):
    return lambda folder: (folder / "config.json").write_bytes(content)


def cut(name, share):
    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return spoil


def without(part):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if part not in name}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def not_finite(folder):
    tensors = {name: torch.full_like(t, torch.nan) for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_weights(folder):
    tensors = {f"another.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def words_unknown(folder):
    words(["<unk>", "great", "It", "was"]).save_pretrained(folder)


def large_vocabulary(folder):
    words(["<unk>", *map(str, range(999))]).save_pretrained(folder)


def vocabulary_with_gaps(folder):
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["model"]["vocab"]["zzz"] = 5000
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["is no folder with a config.json"]),
        (spoil_config(b""), ["config.json is damaged"]),
        (spoil_config(b"[" * 100_000), ["config.json is damaged"]),
        (spoil_config(b"\xff\xfe"), ["config.json is damaged"]),
        (spoil_config(b"[]"), ["not a JSON object"]),
        (spoil_config(b"{}"), ["does not say its width"]),
        (lambda folder: config_of(folder, hidden_size=-32), ["hidden_size in its config.json is -32"]),
        (lambda folder: config_of(folder, hidden_size=64), ["cannot be loaded"]),
        (lambda folder: config_of(folder, model_type="no_such_model"), ["cannot be loaded"]),
        (lambda folder: config_of(folder, model_type="gpt2"), ["lacks", "another model's"]),
        (lambda folder: config_of(folder, num_hidden_layers=3), ["lacks", "model.layers.2"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["cannot be loaded"]),
        (cut("model.safetensors", 0.5), ["cannot be loaded"]),
        (cut("model.safetensors", 0), ["cannot be loaded"]),
        (cut("tokenizer.json", 0.5), ["cannot be loaded"]),
        (without_tokenizer, ["cannot be loaded"]),
        (without("layers.1.mlp"), ["lacks 3 of its weights", "model.layers.1.mlp"]),
        (other_weights, ["lacks"]),
        (not_finite, ["not finite", "damaged"]),
        (words_unknown, ["label word", "unknown to the tokenizer"]),
        (large_vocabulary, ["tokenizer has 1,000 tokens", "280 rows"]),
        (vocabulary_with_gaps, ["tokenizer has 5,001 tokens", "280 rows"]),
    ],
)
def test_a_bad_model_is_one_line_before_any_trial(model, spoil, said):
    folder, argv = model
    spoil(folder)
    line = refusal(argv, folder.parent / "out")
    for word in (str(folder), *said):
        assert word in line


def test_code_that_comes_with_a_model_is_never_run(model, monkeypatch):
    folder, argv = model
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    config_of(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    assert "cannot be loaded" in refusal(argv, folder.parent / "out")
    config_of(folder, model_type="llama")
    called(main, *argv)
    assert not (folder / "ran").exists()
