"""The encoder-decoder backbone compared with a plain forward pass of transformers, in fp64 with sdpa.

T5's norms compute the variance in fp32. If the same sums are done in another order, a variance may round to the next
number. So results of two padded shapes are compared less strictly than results of one.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from lopt import backbones, count_parameters, load_prompt
from lopt.backbones.seq2seq import SENTINEL, Seq2SeqBackbone
from lopt.backbones.tiny import tokenizer as byte_tokenizer
from lopt.config import TrialConfig
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial
from tests.tiny_models import make_tokenizer

VOCABULARY_SIZE, WIDTH, PROMPT_LENGTH = 300, 48, 5
SAME_SHAPE_TOLERANCE, OTHER_SHAPE_TOLERANCE = 1e-12, 1e-6


def make_model(kind, **changes):
    """Return a small model. "tied" is T5; "untied" is T5 v1.1, with its own head, no scaling and gated units."""
    torch.manual_seed(0)
    if kind == "untied":
        changes = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu", **changes}
    config = T5Config(
        vocab_size=VOCABULARY_SIZE, d_model=WIDTH, d_kv=12, d_ff=96, num_layers=2, num_heads=4,
        **{"decoder_start_token_id": 0, "pad_token_id": 0, **changes},
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():  # initial weights barely mix their inputs
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name != "shared.weight":
                parameter.mul_(4)
    if kind == "untied":  # newer versions of transformers build a tied head, and untie it if a file holds another one
        model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY_SIZE, WIDTH))
    model.set_attn_implementation("sdpa")
    return model.double().eval()


def make_backbone(kind, **changes):
    return Seq2SeqBackbone(kind, "test", make_model(kind, **changes), make_tokenizer("t5"))


@pytest.fixture(params=["tied", "untied"])
def backbone(request):
    return make_backbone(request.param)


def label_inputs(backbone, padding=0):
    """Return token ids, lengths and label ids of three texts, padded by `padding` tokens more than needed."""
    generator = torch.Generator().manual_seed(1)
    lengths_B = torch.tensor([9, 4, 6])
    ids_BT = torch.full((3, 9 + padding), backbone.pad_id)
    for row, length in enumerate(lengths_B):
        ids_BT[row, :length] = torch.randint(1, 257, (int(length),), generator=generator)
    return ids_BT, lengths_B, backbone.label_ids([" bad", " great"])


def random_soft_prompt(placement="prefix", update=None):
    generator = torch.Generator().manual_seed(2)

    def leaf(rows):
        return torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)

    return SoftPrompt(
        prompt=leaf(PROMPT_LENGTH), update=None if update is None else leaf(update), placement=PLACEMENTS[placement]
    )


def row_by_hand(backbone, soft_prompt, ids_T):
    """Return the encoder input of one row without padding, `[T + P, H]`."""
    text = list(backbone.model.get_input_embeddings()(ids_T))
    if soft_prompt.update is not None:
        text = [row + soft_prompt.update[i] if i < len(soft_prompt.update) else row for i, row in enumerate(text)]
    prompt = list(soft_prompt.prompt)
    return torch.stack(prompt + text if soft_prompt.placement.name == "prefix" else text + prompt)


def logits_by_hand(backbone, embedded_BSH, mask_BS, label_ids):
    sentinel = backbone.tokenizer.convert_tokens_to_ids(SENTINEL)
    decoder_ids = torch.tensor([[0, sentinel]]).expand(len(embedded_BSH), -1)
    output = backbone.model(inputs_embeds=embedded_BSH, attention_mask=mask_BS, decoder_input_ids=decoder_ids)
    return output.logits[:, 1][:, label_ids]


@pytest.mark.parametrize("update", [None, 3, 12], ids=["plain", "update-shorter", "update-longer"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_logits_and_gradient_equal_the_whole_models_on_a_hand_built_input(backbone, placement, update):
    assert not backbone._uses_whole_head, "the rows of the label words suffice"
    soft_prompt = random_soft_prompt(placement, update)
    leaves = [soft_prompt.prompt] if update is None else [soft_prompt.prompt, soft_prompt.update]
    ids_BT, lengths_B, label_ids = label_inputs(backbone, padding=2)
    logits_BC = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)

    rows = [row_by_hand(backbone, soft_prompt, ids_BT[row, :length]) for row, length in enumerate(lengths_B)]
    embedded_BSH = torch.zeros(3, ids_BT.shape[1] + PROMPT_LENGTH, WIDTH, dtype=torch.float64)
    mask_BS = torch.zeros(embedded_BSH.shape[:2], dtype=torch.long)
    for row, real_SH in enumerate(rows):
        embedded_BSH[row, : len(real_SH)] = real_SH
        mask_BS[row, : len(real_SH)] = 1
    padded_BC = logits_by_hand(backbone, embedded_BSH, mask_BS, label_ids)
    torch.testing.assert_close(logits_BC, padded_BC, rtol=0, atol=SAME_SHAPE_TOLERANCE)
    alone_BC = [
        logits_by_hand(backbone, row_SH[None], torch.ones(1, len(row_SH), dtype=torch.long), label_ids)[0]
        for row_SH in rows
    ]
    torch.testing.assert_close(logits_BC, torch.stack(alone_BC), rtol=0, atol=OTHER_SHAPE_TOLERANCE)

    weight_BC = torch.randn(3, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = torch.autograd.grad((logits_BC * weight_BC).sum(), leaves)
    expected_gradients = torch.autograd.grad((padded_BC * weight_BC).sum(), leaves)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert expected.abs().max() > 1e-4
        # Gradients are up to 70 here. The processor chooses the order of sums: on one processor, the results differed
        # by 1.5e-12 of that.
        rounding = 1e-11 * max(1, float(expected.abs().max()))
        torch.testing.assert_close(gradient, expected, rtol=0, atol=rounding)


def test_without_a_prompt_the_logits_are_the_plain_models(backbone):
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    decoder_ids = torch.tensor([[0, backbone.tokenizer.convert_tokens_to_ids(SENTINEL)]]).expand(3, -1)
    mask_BT = (torch.arange(9)[None] < lengths_B[:, None]).long()
    plain = backbone.model(input_ids=ids_BT, attention_mask=mask_BT, decoder_input_ids=decoder_ids).logits[:, 1]
    logits_BC = backbone.label_logits(None, ids_BT, lengths_B, label_ids)
    torch.testing.assert_close(logits_BC, plain[:, label_ids], rtol=0, atol=SAME_SHAPE_TOLERANCE)


@pytest.mark.parametrize(("kind", "scale"), [("tied", WIDTH**-0.5), ("untied", 1.0)])
def test_the_last_state_is_scaled_where_the_embeddings_are_tied(kind, scale):
    backbone = make_backbone(kind)
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    state_BH = backbone._label_state(None, ids_BT, lengths_B)
    head_VH = backbone.model.shared.weight if kind == "tied" else backbone.model.lm_head.weight
    assert (backbone.model.lm_head.weight is backbone.model.shared.weight) == (kind == "tied")
    by_hand = scale * state_BH @ head_VH[label_ids].T
    torch.testing.assert_close(
        backbone.label_logits(None, ids_BT, lengths_B, label_ids), by_hand, rtol=0, atol=SAME_SHAPE_TOLERANCE
    )


def test_a_head_whose_scale_is_not_known_is_computed_whole(monkeypatch):
    reference = make_backbone("tied")
    monkeypatch.setattr(Seq2SeqBackbone, "head_scale", 1.0)
    backbone = make_backbone("tied")
    assert backbone._uses_whole_head
    arguments = (random_soft_prompt(), *label_inputs(backbone))
    logits_BC = backbone.label_logits(*arguments)
    monkeypatch.undo()
    torch.testing.assert_close(logits_BC, reference.label_logits(*arguments), rtol=0, atol=SAME_SHAPE_TOLERANCE)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_amount_of_padding_and_the_batch_change_nothing(backbone, placement):
    soft_prompt = random_soft_prompt(placement, update=6)
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    together = backbone.label_logits(soft_prompt, ids_BT, lengths_B, label_ids)
    for padding in (1, 8, 40):
        padded = backbone.label_logits(soft_prompt, *label_inputs(backbone, padding))
        torch.testing.assert_close(padded, together, rtol=0, atol=OTHER_SHAPE_TOLERANCE)
    for row, length in enumerate(lengths_B):
        alone = backbone.label_logits(soft_prompt, ids_BT[row : row + 1, :length], lengths_B[row : row + 1], label_ids)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=OTHER_SHAPE_TOLERANCE)
        same_shape = backbone.label_logits(soft_prompt, ids_BT[row : row + 1], lengths_B[row : row + 1], label_ids)
        torch.testing.assert_close(same_shape[0], together[row], rtol=0, atol=1e-9)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_tokens_in_the_padding_change_no_bit(backbone, placement):
    soft_prompt = random_soft_prompt(placement)
    ids_BT, lengths_B, label_ids = label_inputs(backbone, padding=4)
    changed_BT = ids_BT.clone()
    for row, length in enumerate(lengths_B):
        changed_BT[row, length:] = 77
    both_logits = [backbone.label_logits(soft_prompt, ids, lengths_B, label_ids) for ids in (ids_BT, changed_BT)]
    gradients = [torch.autograd.grad(logits.sum(), soft_prompt.prompt)[0] for logits in both_logits]
    assert torch.equal(*both_logits)
    torch.testing.assert_close(*gradients, rtol=0, atol=SAME_SHAPE_TOLERANCE)


def test_with_one_prompt_for_each_row_each_row_gets_its_own(backbone):
    prompts_BPH = torch.randn(3, PROMPT_LENGTH, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ids_BT, lengths_B, label_ids = label_inputs(backbone)
    together = backbone.label_logits(SoftPrompt(prompt=prompts_BPH), ids_BT, lengths_B, label_ids)
    for row in range(3):
        alone = backbone.label_logits(SoftPrompt(prompt=prompts_BPH[row]), ids_BT, lengths_B, label_ids)[row]
        torch.testing.assert_close(alone, together[row], rtol=0, atol=SAME_SHAPE_TOLERANCE)


def test_the_decoder_is_given_the_start_and_the_sentinel(backbone):
    decoder_inputs = []
    decoder = backbone.model.get_decoder()
    decoder.register_forward_pre_hook(
        lambda _, args, kwargs: decoder_inputs.append(kwargs["input_ids"]), with_kwargs=True
    )
    backbone.label_logits(random_soft_prompt(), *label_inputs(backbone))
    sentinel = backbone.tokenizer.convert_tokens_to_ids(SENTINEL)
    assert [ids.tolist() for ids in decoder_inputs] == [[[0, sentinel]] * 3]


def test_the_sentinel_is_where_the_mask_is_or_at_the_end(backbone):
    assert backbone.fill_template("a: {text} {mask} b") == f"a: {{text}} {SENTINEL} b"
    assert backbone.fill_template("{text} It was") == f"{{text}} It was {SENTINEL}"
    ids = backbone.tokenizer(backbone.fill_template("{text} It was {mask}").format(text="fine"))["input_ids"]
    sentinel, end = backbone.tokenizer.convert_tokens_to_ids([SENTINEL, "</s>"])
    assert ids[-2:] == [sentinel, end]
    assert ids.count(sentinel) == 1


def test_a_tokenizer_without_the_sentinel_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"backbone 'other': its tokenizer has no <extra_id_0>") as error:
        Seq2SeqBackbone("other", "test", make_model("tied"), byte_tokenizer())
    assert "\n" not in str(error.value)


def test_a_config_that_names_no_start_starts_with_padding():
    without_start = make_backbone("tied", decoder_start_token_id=None)
    arguments = (random_soft_prompt(), *label_inputs(without_start))
    torch.testing.assert_close(
        without_start.label_logits(*arguments), make_backbone("tied").label_logits(*arguments), rtol=0, atol=0
    )
    del without_start.model.config.decoder_start_token_id
    assert Seq2SeqBackbone("x", "test", without_start.model, make_tokenizer("t5"))._start_id == 0


def test_bf16_gives_finite_numbers_and_fp16_is_refused():
    backbone = Seq2SeqBackbone("half", "test", make_model("tied").bfloat16(), make_tokenizer("t5"))
    soft_prompt = random_soft_prompt().map(lambda tensor: tensor.detach().float().requires_grad_())
    logits = backbone.label_logits(soft_prompt, *label_inputs(backbone))
    assert logits.dtype == torch.float32
    assert bool(logits.isfinite().all())
    (gradient,) = torch.autograd.grad(logits.sum(), soft_prompt.prompt)
    assert gradient.dtype == torch.float32
    assert bool(gradient.isfinite().all())
    with pytest.raises(ValueError, match="precision is 'fp16'"):
        TrialConfig(method="lopt1", task="toy", backbone="t5-base", rank=2, precision="fp16")


# --- facts -----------------------------------------------------------------------------------------------------

SIZES = {  # from the configs on the hub
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
    assert facts.parameters == sum(weight.numel() for weight in model.parameters())
    assert count_parameters(method="fine_tuning", backbone=name) == facts.parameters

    with torch.device("meta"):
        wrapped = peft.get_peft_model(model, peft.LoraConfig(r=32, task_type="SEQ_2_SEQ_LM"))
    trained = sum(weight.numel() for weight in wrapped.parameters() if weight.requires_grad)
    assert count_parameters(method="lora", rank=32, backbone=name) == trained
    if name == "t5-base":
        assert trained == 3_538_944


def save(folder, kind="tied", dtype=torch.float64):
    make_model(kind).to(dtype).save_pretrained(folder)
    make_tokenizer("t5").save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_local_folder_loads_as_an_encoder_decoder(tmp_path, monkeypatch, kind):
    folder_name = f"encoder-decoder-{kind}"  # different for each kind, because facts are remembered by name
    name = save(tmp_path / folder_name, kind)
    facts, loaded, reference = backbones.facts(name), backbones.load(name, "fp64"), make_backbone(kind)
    assert isinstance(loaded, Seq2SeqBackbone)
    assert (facts.seq2seq, facts.width, facts.layers, facts.window) == (True, WIDTH, 2, 512)
    assert (loaded.width, loaded.window, loaded.pad_id) == (WIDTH, 512, 0)
    arguments = (random_soft_prompt(), *label_inputs(reference))
    torch.testing.assert_close(
        loaded.label_logits(*arguments), reference.label_logits(*arguments), rtol=0, atol=SAME_SHAPE_TOLERANCE
    )
    assert facts.lora_projections() == ((12, WIDTH, WIDTH),)
    monkeypatch.setenv("LOPT_MODEL_DIR", str(tmp_path))
    assert backbones.facts(folder_name).seq2seq
    assert backbones.model_revision(folder_name) == loaded.revision


@pytest.mark.parametrize("written_by", ["hub", "transformers"])
def test_the_weights_of_an_untied_head_are_counted(tmp_path, written_by):
    """This is the case of T5 v1.1 and Flan-T5. Fine-tuning trains the head, too."""
    folder = tmp_path / "untied"
    name = save(folder, "untied")
    if written_by == "hub":  # the configs there say that nothing is tied, and do not mention scaling
        config = json.loads((folder / "config.json").read_text())
        config.pop("scale_decoder_outputs", None)
        config["tie_word_embeddings"] = False
        (folder / "config.json").write_text(json.dumps(config))
    loaded = backbones.load(name, "fp64")
    count = sum(weight.numel() for weight in loaded.model.parameters())
    assert count == sum(weight.numel() for weight in make_model("untied").parameters())
    assert count_parameters(method="fine_tuning", backbone=name) == count


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
    predictions = load_prompt(tmp_path).evaluate()
    assert predictions.accuracy == record.test_accuracy
    np.testing.assert_array_equal(predictions.logits, trial.predictions.logits)
    assert shared.checksum() == before
    sentinel = shared.tokenizer.convert_tokens_to_ids(SENTINEL)
    assert all(ids[-2:] == (sentinel, shared.tokenizer.eos_token_id) for ids in trial.data.train.token_ids)
    assert trial.data.train.truncated_count > 0


def test_t5s_own_tokenizer_gives_the_expected_label_and_sentinel_tokens(shared):
    from transformers import AutoTokenizer

    t5_tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "t5-base")
    torch.manual_seed(0)
    config = T5Config(vocab_size=32128, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    backbone = Seq2SeqBackbone("t5", "test", T5ForConditionalGeneration(config), t5_tokenizer)
    assert backbone.label_ids([" yes", " no", " maybe"]).tolist() == [4273, 150, 2087]
    assert backbone.label_ids([" negative", " positive"]).tolist() == [2841, 1465]
    assert backbone._decoder_ids(2).tolist() == [[0, 32099]] * 2
    text = backbone.fill_template("hypothesis: {question}. premise: {passage} {mask}").format(question="a", passage="b")
    ids = t5_tokenizer(text)["input_ids"]
    assert ids[-2:] == [32099, t5_tokenizer.eos_token_id]
    vocabulary = backbone.vocabulary((" yes", " no"))
    ordinary = vocabulary.ordinary_token_ids(5000)
    assert len(ordinary) == 5000
    assert not set(ordinary.tolist()) & set(t5_tokenizer.all_special_ids)
    weight_VH = backbone.model.shared.weight.detach().double().numpy()
    np.testing.assert_allclose(vocabulary.label_word_embeddings(), weight_VH[[4273, 150]], rtol=0, atol=1e-12)
