"""The causal backbone compared with PEFT and with a plain forward pass of transformers, in fp64 with sdpa."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lopt import backbones, count_parameters
from lopt.backbones.causal import CausalBackbone
from lopt.backbones.tiny import tokenizer
from lopt.soft_prompt import SoftPrompt

VOCABULARY_SIZE, WIDTH, PROMPT_LENGTH = 300, 48, 7


def make_model(family, **changes):
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(vocab_size=VOCABULARY_SIZE, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=128, **changes)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=VOCABULARY_SIZE, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, **changes,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    with torch.no_grad():  # initial weights barely mix their inputs
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.set_attn_implementation("sdpa")
    return model.double().eval()


def causal_backbone(family, **changes):
    return CausalBackbone(family, "test", make_model(family, **changes), tokenizer())


@pytest.fixture(params=["gpt2", "llama"])
def backbone(request):
    return causal_backbone(request.param)


def label_inputs(backbone, padding=0):
    """Return token ids, lengths and label ids of three texts, padded by `padding` tokens more than needed."""
    torch.manual_seed(1)
    lengths_B = torch.tensor([9, 4, 6])
    ids_BT = torch.full((3, 9 + padding), backbone.pad_id)
    for row, length in enumerate(lengths_B):
        ids_BT[row, :length] = torch.randint(1, 257, (int(length),))
    return ids_BT, lengths_B, backbone.label_ids([" bad", " great"])


def random_prompt():
    torch.manual_seed(2)
    return torch.randn(PROMPT_LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("padding", [0, 13])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_and_gradient_equal_pefts_prompt_tuning(family, padding):
    peft = pytest.importorskip("peft")
    backbone, prompt = causal_backbone(family), random_prompt()
    ids_BT, lengths_B, label_ids = label_inputs(backbone, padding)
    logits_BC = backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids)
    labels = torch.tensor([0, 1, 1])
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits_BC, labels), prompt)

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=PROMPT_LENGTH)
    wrapped = peft.get_peft_model(make_model(family), config).double().eval()
    weight = wrapped.prompt_encoder["default"].embedding.weight
    with torch.no_grad():
        weight.copy_(prompt)
    mask_BT = torch.arange(ids_BT.shape[1])[None] < lengths_B[:, None]
    logits_BSV = wrapped(input_ids=ids_BT, attention_mask=mask_BT.long()).logits
    peft_BC = logits_BSV[torch.arange(3), PROMPT_LENGTH + lengths_B - 1][:, label_ids]
    (peft_gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(peft_BC, labels), weight)

    assert gradient.abs().max() > 1e-6
    torch.testing.assert_close(logits_BC, peft_BC, rtol=0, atol=1e-9)
    torch.testing.assert_close(gradient, peft_gradient, rtol=0, atol=1e-9)


def test_the_amount_of_padding_changes_nothing(backbone):
    prompt = random_prompt()
    reference = backbone.label_logits(SoftPrompt(prompt=prompt), *label_inputs(backbone))
    for padding in (1, 8, 40):
        torch.testing.assert_close(
            backbone.label_logits(SoftPrompt(prompt=prompt), *label_inputs(backbone, padding)),
            reference,
            rtol=0,
            atol=1e-12,
        )


def test_a_batch_gives_what_each_row_gives_alone(backbone):
    prompt = random_prompt()
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    together = backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids)
    for row, length in enumerate(lengths_B):
        alone = backbone.label_logits(
            SoftPrompt(prompt=prompt), ids_BT[row : row + 1, :length], lengths_B[row : row + 1], label_ids
        )
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)


def test_label_logits_are_rows_of_the_whole_head_on_a_hand_built_input(backbone):
    prompt = random_prompt()
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    for row, length in enumerate(lengths_B):
        text_TH = backbone.model.get_input_embeddings()(ids_BT[row, :length])
        expected_V = backbone.model(inputs_embeds=torch.cat([prompt, text_TH])[None]).logits[0, -1]
        logits_C = backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids)[row]
        torch.testing.assert_close(logits_C, expected_V[label_ids], rtol=0, atol=1e-12)


def test_label_logits_of_a_bf16_model_are_not_rounded_to_bf16():
    """In bf16, logits around 11 have steps of 1/16, so examples would be exact ties. The hidden states stay bf16."""
    backbone = CausalBackbone("llama", "test", make_model("llama").to(torch.bfloat16), tokenizer())
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    backbone.flat = None
    with torch.no_grad():  # so that both use the same attention kernel
        logits_BC = backbone.label_logits(None, ids_BT, lengths_B, label_ids)
        states_BTH = backbone.model.base_model(input_ids=ids_BT).last_hidden_state
    states_BH = states_BTH[torch.arange(3), lengths_B - 1].double()
    rows_CH = backbone.model.get_output_embeddings().weight[label_ids].double()
    torch.testing.assert_close(logits_BC.double(), states_BH @ rows_CH.T, rtol=1e-5, atol=1e-5)
    assert (logits_BC != logits_BC.bfloat16().float()).any()


def test_without_a_prompt_the_logits_are_the_plain_models(backbone):
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    plain = backbone.model(input_ids=ids_BT[:1]).logits[0, -1, label_ids]
    torch.testing.assert_close(backbone.label_logits(None, ids_BT[:1], lengths_B[:1], label_ids)[0], plain)


def test_a_head_that_scales_its_logits_is_computed_whole():
    class Scaled(GPT2LMHeadModel):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = torch.tanh(output.logits)
            return output

    plain = make_model("gpt2")
    scaled = Scaled(plain.config).double()
    scaled.load_state_dict(plain.state_dict())
    backbone = CausalBackbone("scaled", "test", scaled, tokenizer())
    reference = causal_backbone("gpt2")
    arguments = (SoftPrompt(prompt=random_prompt()), *label_inputs(reference))
    torch.testing.assert_close(backbone.label_logits(*arguments), torch.tanh(reference.label_logits(*arguments)))


def test_label_words_that_share_a_token_are_refused(folders):
    backbone = backbones.load(str(folders["gpt2"]), "fp32")
    with pytest.raises(ValueError, match=r"share their first token.*' fine': \d+"):
        backbone.label_ids([" fine", " fun"])


def test_a_model_that_looks_at_later_tokens_is_refused():
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=VOCABULARY_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    with pytest.raises(ValueError, match=r"'bert' looks at the tokens that follow.*give a decoder"):
        CausalBackbone("bert", "test", BertLMHeadModel(config), tokenizer())


def test_a_tokenizer_with_more_tokens_than_the_embeddings_is_refused():
    small = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ValueError, match=r"tokenizer has 269 tokens and its embeddings only 100 rows"):
        CausalBackbone("small", "test", small, tokenizer())


def test_the_checksum_changes_with_a_weight(backbone):
    before = backbone.checksum()
    with torch.no_grad():
        list(backbone.model.parameters())[-1].flatten()[0] += 1e-9
    assert backbone.checksum() != before


def test_a_local_folder_loads_and_gives_the_same_numbers(tmp_path, monkeypatch):
    make_model("llama").float().save_pretrained(tmp_path / "my-model")
    tokenizer().save_pretrained(tmp_path / "my-model")
    loaded = backbones.load(str(tmp_path / "my-model"), "fp64")
    reference = causal_backbone("llama")
    arguments = (SoftPrompt(prompt=random_prompt()), *label_inputs(reference))
    torch.testing.assert_close(loaded.label_logits(*arguments), reference.label_logits(*arguments), rtol=0, atol=1e-4)
    assert backbones.facts(str(tmp_path / "my-model")).width == WIDTH
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path))
    assert backbones.facts("my-model").window == 128
    assert backbones.model_revision("my-model") == backbones.model_revision(str(tmp_path / "my-model"))
    (tmp_path / "my-model" / "extra.json").write_text("{}")
    assert backbones.model_revision("my-model") != loaded.revision


def test_known_backbones_need_no_weights():
    assert {name: backbones.facts(name).width for name in ("gpt2", "gpt2-medium", "gpt2-large", "embedded")} == {
        "gpt2": 768,
        "gpt2-medium": 1024,
        "gpt2-large": 1280,
        "embedded": 576,
    }


HUB_CONFIGS = {
    "gpt2": GPT2Config(n_embd=768, n_layer=12, n_head=12),
    "gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "embedded": LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HUB_CONFIGS)
def test_known_facts_are_those_of_the_model(name):
    """The weights, and those that LoRA trains, are counted on a model without memory."""
    peft = pytest.importorskip("peft")
    config, facts = HUB_CONFIGS[name], backbones.facts(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert (facts.width, facts.layers, facts.vocabulary, facts.window) == (
        config.hidden_size, config.num_hidden_layers, config.vocab_size, config.max_position_embeddings,
    )  # fmt: skip
    assert not facts.seq2seq
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    with torch.device("meta"):
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=8, fan_in_fan_out=name != "embedded"))
    trained = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    assert count_parameters(method="lora", rank=8, backbone=name) == trained


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_facts_of_a_folder_are_counted_from_its_config(tmp_path, family):
    model = make_model(family, tie_word_embeddings=family == "gpt2")
    model.config.save_pretrained(tmp_path)
    facts = backbones.facts(str(tmp_path))
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    expected = {"gpt2": ((3, WIDTH, 3 * WIDTH),), "llama": ((3, WIDTH, WIDTH), (3, WIDTH, WIDTH // 2))}
    assert facts.lora_projections() == expected[family]


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "gpt3-large"])
def test_an_unknown_backbone_is_refused_in_one_line(name, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the environment variable counts only before the import
    with pytest.raises(ValueError, match=r"backbone .*nowhere|neither known") as error:
        backbones.facts(name)
    assert "\n" not in str(error.value)
