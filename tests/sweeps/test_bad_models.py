"""Model folders that are incomplete or damaged, or whose files do not fit: one line before any trial begins."""

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
from tests.bad_input import error_line, run_command
from tests.tiny_models import make_model, make_tokenizer


@pytest.fixture(scope="module")
def intact_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "llama"
    make_model("llama").float().save_pretrained(folder)
    make_tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def model(intact_folder, tmp_path):
    """Return a model folder, which the test may damage, and the arguments of a sweep with it."""
    folder = tmp_path / "model"
    shutil.copytree(intact_folder, folder)
    argv = ["--space", "smoke", "--local-mode", "--out", tmp_path / "out", "--set", f"backbone={folder}"]
    argv += ["--set", "trials=1", "--set", "max_steps=1", "--set", "precision=fp32"]
    return folder, argv


def refusal(argv, out):
    """Return the line with which the sweep is refused."""
    line = error_line(*run_command(main, *argv))
    assert not list(out.glob("*/trials")), "no trial has been written"
    return line


def word_tokenizer(tokens):
    """Return a tokenizer whose tokens are whole words."""
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_intact_folder_whose_tokenizer_has_no_padding_is_accepted(model):
    folder, argv = model
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    backbone = backbones.load(str(folder), "fp32")
    assert backbone.tokenizer.pad_token_id is None
    assert run_command(main, *argv)[0] == 0


# Each function below damages a model folder, or returns a function that does.


def overwrite_config(content):
    return lambda folder: (folder / "config.json").write_bytes(content)


def truncate(name, share):
    def damage(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return damage


def remove_weights(name_part):
    def damage(folder):
        tensors = load_file(folder / "model.safetensors")
        remaining = {name: tensor for name, tensor in tensors.items() if name_part not in name}
        assert len(remaining) < len(tensors)
        save_file(remaining, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def make_weights_nan(folder):
    weights = load_file(folder / "model.safetensors")
    nans = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    save_file(nans, folder / "model.safetensors", metadata={"format": "pt"})


def rename_weights(folder):
    tensors = {f"another.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remove_tokenizer(folder):
    for path in folder.glob("*token*"):
        path.unlink()


def make_label_word_unknown(folder):
    word_tokenizer(["<unk>", "great", "It", "was"]).save_pretrained(folder)


def enlarge_vocabulary(folder):
    word_tokenizer(["<unk>", *map(str, range(999))]).save_pretrained(folder)


def leave_gap_in_vocabulary(folder):
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zzz"] = 5000
    path.write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), ["is not a folder with a config.json"]),
        (overwrite_config(b""), ["config.json is damaged"]),
        (overwrite_config(b"[" * 100_000), ["config.json is damaged"]),
        (overwrite_config(b"\xff\xfe"), ["config.json is damaged"]),
        (overwrite_config(b"[]"), ["not a JSON object"]),
        (overwrite_config(b"{}"), ["does not give its width"]),
        (lambda folder: change_config(folder, hidden_size=-32), ["hidden_size in its config.json is -32"]),
        (lambda folder: change_config(folder, hidden_size=64), ["cannot be loaded"]),
        (lambda folder: change_config(folder, model_type="no_such_model"), ["cannot be loaded"]),
        (lambda folder: change_config(folder, model_type="gpt2"), ["lacks", "belongs to another model"]),
        (lambda folder: change_config(folder, num_hidden_layers=3), ["lacks", "model.layers.2"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["cannot be loaded"]),
        (truncate("model.safetensors", 0.5), ["cannot be loaded"]),
        (truncate("model.safetensors", 0), ["cannot be loaded"]),
        (truncate("tokenizer.json", 0.5), ["cannot be loaded"]),
        (remove_tokenizer, ["cannot be loaded"]),
        (remove_weights("layers.1.mlp"), ["lacks 3 of its weights", "model.layers.1.mlp"]),
        (rename_weights, ["lacks"]),
        (make_weights_nan, ["not finite", "damaged"]),
        (make_label_word_unknown, ["label word", "unknown to the tokenizer"]),
        (enlarge_vocabulary, ["tokenizer has 1,000 tokens", "280 rows"]),
        (leave_gap_in_vocabulary, ["tokenizer has 5,001 tokens", "280 rows"]),
    ],
)
def test_a_bad_model_is_refused_with_one_line_before_any_trial(model, damage, words):
    folder, argv = model
    damage(folder)
    line = refusal(argv, folder.parent / "out")
    for word in (str(folder), *words):
        assert word in line


def test_code_that_comes_with_a_model_is_never_run(model, monkeypatch):
    folder, argv = model
    (folder / "custom.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    auto_map = {"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"}
    change_config(folder, model_type="custom", auto_map=auto_map)
    assert "cannot be loaded" in refusal(argv, folder.parent / "out")
    change_config(folder, model_type="llama")
    run_command(main, *argv)
    assert not (folder / "ran").exists()
