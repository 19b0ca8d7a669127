"""The encoder-decoder backbone against a plain transformers forward, in fp64 with sdpa.

T5's norms take their variance in fp32. Where the same sums are done in another order, a variance may round to its
neighbour there, so that two padded shapes are compared more loosely than one.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from lopt import backbones, count_parameters, load_prompt
from lopt.backbones.seq2seq import SENTINEL, Seq2SeqBackbone
from lopt.backbones.tiny import tokenizer as byte_tokenizer
from lopt.config import TrialConfig
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial

VOCABULARY, WIDTH, PROMPT = 300, 48, 5
SAME_SHAPE, OTHER_SHAPE = 1e-12, 1e-6


def tokenizer():
    """Bytes and label words, with T5's end of text and sentinel."""
    made = byte_tokenizer().backend_tokenizer
    made.add_special_tokens(["</s>", SENTINEL])
    end = ("</s>", made.token_to_id("</s>"))
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[end])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def make_model(kind, **changes):
    """ "tied" is T5, "untied" T5 v1.1: a head of its own, no scaling, gated units."""
    torch.manual_seed(0)
    if kind == "untied":
        changes = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", **changes}
    config = T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=12, d_ff=96, num_layers=2, num_heads=4,
        **{"decoder_start_token_id": 0, "pad_token_id": 0, **changes},
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # random weights as they come barely mix their inputs
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name != "shared.weight":
                parameter.mul_(4)
    if kind == "untied":  # newer versions of transformers make the head tied, and keep another one that a file holds
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, WIDTH))
    model.set_attn_implementation("sdpa")
    return model.double().eval()


def make_backbone(kind, **changes):
    return Seq2SeqBackbone(kind, "test", make_model(kind, **changes), tokenizer())


@pytest.fixture(params=["tied", "untied"])
def backbone(request):
    return make_backbone(request.param)


def inputs(backbone, padding=0):
    """Three texts of different length, padded on the right by `padding` tokens more than needed."""
    generator = torch.Generator().manual_seed(1)
    lengths_B = torch.tensor([9, 4, 6])
    ids_BT = torch.full((3, 9 + padding), backbone.pad_id)
    for row, length in enumerate(lengths_B):
        ids_BT[row, :length] = torch.randint(1, 257, (int(length),), generator=generator)
    return ids_BT, lengths_B, backbone.label_ids([" bad", " great"])


def random_soft(placement="prefix", update=None):
    generator = torch.Generator().manual_seed(2)

    def leaf(rows):
        return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)

    return SoftPrompt(
        prompt=leaf(PROMPT), update=None if update is None else leaf(update), placement=PLACEMENTS[placement]
    )


def row_by_hand(backbone, soft_prompt, ids_T):
    """One row's encoder input without padding, `[T + P, H]`."""
    text = list(backbone.model.get_input_embeddings()(ids_T))
    if soft_prompt.update is not None:
        text = [row + soft_prompt.update[i] if i < len(soft_prompt.update) else row for i, row in enumerate(text)]
    prompt = list(soft_prompt.prompt)
    return torch.stack(prompt + text if soft_prompt.placement.name == "prefix" else text + prompt)


def logits_by_hand(backbone, embedded_BSH, mask_BS, label_ids):
    sentinel = backbone.tokenizer.convert_tokens_to_ids(SENTINEL)
    decoder_ids = torch.tensor([[0, sentinel]]).expand(len(embedded_BSH), -1)
    out = backbone.model(inputs_embeds=embedded_BSH, attention_mask=mask_BS, decoder_input_ids=decoder_ids)
    return out.logits[:, 1][:, label_ids]


@pytest.mark.parametrize("update", [None, 3, 12], ids=["plain", "update-shorter", "update-longer"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_logits_and_gradient_equal_the_whole_models_on_a_hand_built_input(backbone, placement, update):
    assert not backbone._uses_whole_head, "the rows of the label words suffice"
    soft_prompt = random_soft(placement, update)
    leaves = [soft_prompt.prompt] if update is None else [soft_prompt.prompt, soft_prompt.update]
    ids_BT, lengths_B, label_ids = inputs(backbone, padding=2)
    ours_BC = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)

    rows = [row_by_hand(backbone, soft_prompt, ids_BT[row, :length]) for row, length in enumerate(lengths_B)]
    embedded_BSH = torch.zeros(3, ids_BT.shape[1] + PROMPT, WIDTH, dtype=torch.float64)
    mask_BS = torch.zeros(embedded_BSH.shape[:2], dtype=torch.long)
    for row, real_SH in enumerate(rows):
        embedded_BSH[row, : len(real_SH)] = real_SH
        mask_BS[row, : len(real_SH)] = 1
    padded_BC = logits_by_hand(backbone, embedded_BSH, mask_BS, label_ids)
    torch.testing.assert_close(ours_BC, padded_BC, rtol=0, atol=SAME_SHAPE)
    alone_BC = [logits_by_hand(backbone, r[None], torch.ones(1, len(r), dtype=torch.long), label_ids)[0] for r in rows]
    torch.testing.assert_close(ours_BC, torch.stack(alone_BC), rtol=0, atol=OTHER_SHAPE)

    weight_BC = torch.randn(3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = torch.autograd.grad((ours_BC * weight_BC).sum(), leaves)
    theirs = torch.autograd.grad((padded_BC * weight_BC).sum(), leaves)
    for mine, expected in zip(ours, theirs, strict=True):
        assert expected.abs().max() > 1e-4
        # Up to 70 here, and the order of sums is the processor's choice: 1.5e-12 of that apart on one of them.
        rounding = 1e-11 * max(1, float(expected.abs().max()))
        torch.testing.assert_close(mine, expected, rtol=0, atol=rounding)


def test_without_a_prompt_it_is_the_plain_model(backbone):
    ids_BT, lengths_B, label_ids = inputs(backbone)
    decoder_ids = torch.tensor([[0, backbone.tokenizer.convert_tokens_to_ids(SENTINEL)]]).expand(3, -1)
    mask_BT = (torch.arange(9)[None] < lengths_B[:, None]).long()
    plain = backbone.model(input_ids=ids_BT, attention_mask=mask_BT, decoder_input_ids=decoder_ids).logits[:, 1]
    ours = backbone.label_logits(None, ids_BT, lengths_B, label_ids)
    torch.testing.assert_close(ours, plain[:, label_ids], rtol=0, atol=SAME_SHAPE)


@pytest.mark.parametrize(("kind", "scale"), [("tied", WIDTH**-0.5), ("untied", 1.0)])
def test_the_last_state_is_scaled_where_the_embeddings_are_tied(kind, scale):
    backbone = make_backbone(kind)
    ids_BT, lengths_B, label_ids = inputs(backbone)
    state_BH = backbone._label_state(None, ids_BT, lengths_B)
    head_VH = backbone.model.shared.weight if kind == "tied" else backbone.model.lm_head.weight
    assert (backbone.model.lm_head.weight is backbone.model.shared.weight) == (kind == "tied")
    by_hand = scale * state_BH @ head_VH[label_ids].T
    torch.testing.assert_close(
        backbone.label_logits(None, ids_BT, lengths_B, label_ids), by_hand, rtol=0, atol=SAME_SHAPE
    )


def test_a_head_whose_scale_is_not_known_is_computed_whole(monkeypatch):
    reference = make_backbone("tied")
    monkeypatch.setattr(Seq2SeqBackbone, "head_scale", 1.0)
    backbone = make_backbone("tied")
    assert backbone._uses_whole_head
    arguments = (random_soft(), *inputs(backbone))
    found = backbone.label_logits(*arguments)
    monkeypatch.undo()
    torch.testing.assert_close(found, reference.label_logits(*arguments), rtol=0, atol=SAME_SHAPE)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_amount_of_padding_and_the_batch_change_nothing(backbone, placement):
    soft_prompt = random_soft(placement, update=6)
    ids_BT, lengths_B, label_ids = inputs(backbone)
    together = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)
    for padding in (1, 8, 40):
        more = backbone.label_logits(soft_prompt, *inputs(backbone, padding))
        torch.testing.assert_close(more, together, rtol=0, atol=OTHER_SHAPE)
    for row, length in enumerate(lengths_B):
        alone = backbone.label_logits(soft_prompt, ids_BT[row : row + 1, :length], lengths_B[row : row + 1], label_ids)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=OTHER_SHAPE)
        same_shape = backbone.label_logits(soft_prompt, ids_BT[row : row + 1], lengths_B[row : row + 1], label_ids)
        torch.testing.assert_close(same_shape[0], together[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_what_stands_in_the_padding_changes_no_bit(backbone, placement):
    soft_prompt = random_soft(placement)
    ids_BT, lengths_B, label_ids = inputs(backbone, padding=4)
    other_BT = ids_BT.clone()
    for row, length in enumerate(lengths_B):
        other_BT[row, length:] = 77
    found = [backbone.label_logits(soft_prompt, ids, lengths_B, label_ids) for ids in (ids_BT, other_BT)]
    gradients = [torch.autograd.grad(logits.sum(), soft_prompt.prompt)[0] for logits in found]
    assert torch.equal(*found)
    torch.testing.assert_close(*gradients, rtol=0, atol=SAME_SHAPE)


def test_one_prompt_a_row_is_its_own(backbone):
    prompts_BPH = torch.randn(3, PROMPT, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ids_BT, lengths_B, label_ids = inputs(backbone)
    together = backbone.label_logits(SoftPrompt(prompt=prompts_BPH), ids_BT, lengths_B, label_ids)
    for row in range(3):
        alone = backbone.label_logits(SoftPrompt(prompt=prompts_BPH[row]), ids_BT, lengths_B, label_ids)[row]
        torch.testing.assert_close(alone, together[row], rtol=0, atol=SAME_SHAPE)


def test_the_decoder_is_given_the_start_and_the_sentinel(backbone):
    seen = []
    decoder = backbone.model.get_decoder()
    decoder.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    backbone.label_logits(random_soft(), *inputs(backbone))
    sentinel = backbone.tokenizer.convert_tokens_to_ids(SENTINEL)
    assert [ids.tolist() for ids in seen] == [[[0, sentinel]] * 3]


def test_the_sentinel_stands_where_the_mask_is_or_at_the_end(backbone):
    assert backbone.complete("a: {text} {mask} b") == f"a: {{text}} {SENTINEL} b"
    assert backbone.complete("{text} It was") == f"{{text}} It was {SENTINEL}"
    ids = backbone.tokenizer(backbone.complete("{text} It was {mask}").format(text="fine"))["input_ids"]
    sentinel, end = backbone.tokenizer.convert_tokens_to_ids([SENTINEL, "</s>"])
    assert ids[-2:] == [sentinel, end]
    assert ids.count(sentinel) == 1


def test_a_tokenizer_without_the_sentinel_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"backbone 'other': its tokenizer has no <extra_id_0>") as caught:
        Seq2SeqBackbone("other", "test", make_model("tied"), byte_tokenizer())
    assert "\n" not in str(caught.value)


def test_a_config_that_names_no_start_starts_with_padding():
    made = make_backbone("tied", decoder_start_token_id=None)
    arguments = (random_soft(), *inputs(made))
    torch.testing.assert_close(
        made.label_logits(*arguments), make_backbone("tied").label_logits(*arguments), rtol=0, atol=0
    )
    del made.model.config.decoder_start_token_id
    assert Seq2SeqBackbone("x", "test", made.model, tokenizer())._start_id == 0


def test_bf16_is_finite_and_fp16_is_no_precision():
    backbone = Seq2SeqBackbone("half", "test", make_model("tied").bfloat16(), tokenizer())
    soft_prompt = random_soft().map(lambda tensor: tensor.detach().float().requires_grad_())
    logits = backbone.label_logits(soft_prompt, *inputs(backbone))
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    (gradient,) = torch.autograd.grad(logits.sum(), soft_prompt.prompt)
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    with pytest.raises(ValueError, match="precision is 'fp16'"):
        TrialConfig(method="lopt1", task="toy", backbone="t5-base", rank=2, precision="fp16")


# --- facts -----------------------------------------------------------------------------------------------------

SIZES = {  # as in the configs on the hub
    "t5-small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_layers": 24, "num_heads": 16},
}


@pytest.mark.parametrize("name", SIZES)
def test_known_facts_are_those_of_the_model(name):
    peft = pytest.importorskip("peft")
    config = T5Config(vocab_size=32128, **SIZES[name])
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    facts = backbones.facts(name)
    assert (facts.width, facts.layers, facts.vocabulary) == (config.d_model, config.num_layers, config.vocab_size)
    assert (facts.window, facts.seq2seq) == (512, True)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert count_parameters(method="fine_tuning", backbone=name) == facts.parameters

    with torch.device("meta"):
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=32, task_type="SEQ_2_SEQ_LM"))
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert count_parameters(method="lora", rank=32, backbone=name) == trained
    if name == "t5-base":
        assert trained == 3_538_944


def save(folder, kind="tied", dtype=torch.float64):
    make_model(kind).to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_local_folder_loads_as_an_encoder_decoder(tmp_path, monkeypatch, kind):
    own = f"encoder-decoder-{kind}"  # facts are remembered by name
    name = save(tmp_path / own, kind)
    facts, loaded, reference = backbones.facts(name), backbones.load(name, "fp64"), make_backbone(kind)
    assert isinstance(loaded, Seq2SeqBackbone)
    assert (facts.seq2seq, facts.width, facts.layers, facts.window) == (True, WIDTH, 2, 512)
    assert (loaded.width, loaded.window, loaded.pad_id) == (WIDTH, 512, 0)
    arguments = (random_soft(), *inputs(reference))
    torch.testing.assert_close(
        loaded.label_logits(*arguments), reference.label_logits(*arguments), rtol=0, atol=SAME_SHAPE
    )
    assert facts.lora_projections() == ((12, WIDTH, WIDTH),)
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path))
    assert backbones.facts(own).seq2seq
    assert backbones.model_revision(own) == loaded.revision


@pytest.mark.parametrize("written_by", ["hub", "transformers"])
def test_the_weights_of_a_head_of_its_own_are_counted(tmp_path, written_by):
    """T5 v1.1 and Flan-T5: fine-tuning trains the head, too."""
    folder = tmp_path / "untied"
    name = save(folder, "untied")
    if written_by == "hub":  # the configs there say that nothing is tied, and nothing of scaling
        config = json.loads((folder / "config.json").read_text())
        config = {k: v for k, v in config.items() if k != "scale_decoder_outputs"} | {"tie_word_embeddings": False}
        (folder / "config.json").write_text(json.dumps(config))
    loaded = backbones.load(name, "fp64")
    held = sum(p.numel() for p in loaded.model.parameters())
    assert held == sum(p.numel() for p in make_model("untied").parameters())
    assert count_parameters(method="fine_tuning", backbone=name) == held


@pytest.mark.parametrize(
    ("method", "length", "rank"),
    [("prompt_tuning", 4, None), ("lopt2", 4, 2), ("dept", 4, 2), ("lora", None, 2), ("fine_tuning", None, None)],
)
def test_a_trial_trains_and_reloads_exactly(tmp_path_factory, tmp_path, method, length, rank):
    folder = tmp_path_factory.getbasetemp() / "t5-fp32"
    if not folder.exists():
        save(folder, dtype=torch.float32)
    config = TrialConfig(
        method=method, task="toy", backbone=str(folder), length=length, rank=rank, learning_rate=0.01, batch_size=4,
        max_steps=3, eval_every=3, selection_examples=8, test_examples=16, max_tokens=40, precision="fp32",
    )  # fmt: skip
    trial = Trial(config)
    shared, before = backbones.load(str(folder), "fp32"), backbones.load(str(folder), "fp32").checksum()
    list(trial)
    record = trial.finish(artifact=tmp_path)
    found = load_prompt(tmp_path).evaluate()
    assert found.accuracy == record.test_accuracy
    np.testing.assert_array_equal(found.logits, trial.predictions.logits)
    assert shared.checksum() == before
    sentinel = shared.tokenizer.convert_tokens_to_ids(SENTINEL)
    assert all(ids[-2:] == (sentinel, shared.tokenizer.eos_token_id) for ids in trial.data.train.token_ids)
    assert trial.data.train.truncated > 0


def test_real_tokens_of_t5(shared):
    """Of T5's own tokenizer: label words by their first token, the sentinel by its name."""
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(shared / "tokenizers" / "t5-base")
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    backbone = Seq2SeqBackbone("t5", "test", T5ForConditionalGeneration(config), real)
    assert backbone.label_ids([" yes", " no", " maybe"]).tolist() == [4273, 150, 2087]
    assert backbone.label_ids([" negative", " positive"]).tolist() == [2841, 1465]
    assert backbone._decoder_ids(2).tolist() == [[0, 32099]] * 2
    text = backbone.complete("hypothesis: {question}. premise: {passage} {mask}").format(question="a", passage="b")
    ids = real(text)["input_ids"]
    assert ids[-2:] == [32099, real.eos_token_id]
    vocabulary = backbone.vocabulary((" yes", " no"))
    ordinary = vocabulary.ordinary_ids(5000)
    assert len(ordinary) == 5000
    assert not set(ordinary.tolist()) & set(real.all_special_ids)
    weight_VH = backbone.model.shared.weight.detach().double().numpy()
    np.testing.assert_allclose(vocabulary.label_rows(), weight_VH[[4273, 150]], rtol=0, atol=1e-12)
