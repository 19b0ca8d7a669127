"""Special tokens: what a causal model reads ends with its template, and a text that spells one out stays text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lopt import backbones, load_prompt, tasks, tokens, train
from lopt.backbones.causal import CausalBackbone
from lopt.data import prepare
from lopt.encoding import Example, cut_to, encode, encode_all
from tests.tiny_models import make_model, make_tokenizer

TEMPLATE = "{text} It was"
TOY = tasks.get("toy")
SPECIAL = ["<|endoftext|>", "<extra_id_0>", "</s>", "<|im_start|>", "<s>", "<unk>", "[SEP]"]


def one(tokenizer, template, text):
    return list(encode_all(tokenizer, TOY, template, [Example(0, {"text": text}, 0)]).token_ids[0])


# --- the end of what a causal model reads ----------------------------------------------------------------------------

BOTH = {"bos_token": "<s>", "eos_token": "</s>"}


def template_processor(single):
    def of(tokenizer):
        special = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>", "[SEP]")]
        return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=special)

    return of


ENDS = {
    "eos": template_processor("$A </s>"),
    "bos and eos": template_processor("<s> $A </s>"),
    "several": template_processor("<s> $A </s> [SEP] </s>"),
    "behind offsets": lambda t: processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template_processor("<s> $A </s>")(t)]
    ),
    "bert": lambda t: processors.BertProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))),
    "roberta": lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))),
}


def ending(processor, **settings):
    """A byte tokenizer with special tokens, and a processor that puts some of them around a text."""
    made = make_tokenizer("gpt2").backend_tokenizer
    made.add_special_tokens(["<s>", "</s>", "[SEP]"])
    made.post_processor = processor(made)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", **BOTH, **settings)


@pytest.mark.parametrize("end", ENDS)
def test_a_causal_model_reads_the_label_after_the_last_token_of_the_template(end):
    tokenizer = ending(ENDS[end])
    usual = tokenizer("a film It was")["input_ids"]
    backbone = CausalBackbone("mine", "test", make_model("llama"), tokenizer)
    begins = [] if end == "eos" else [tokenizer.bos_token_id]
    expected = [*begins, *make_tokenizer("gpt2")("a film It was")["input_ids"]]
    assert usual != expected, "the tokenizer as it comes ends otherwise"
    assert one(backbone.tokenizer, TEMPLATE, "a film") == expected
    assert list(encode(backbone.tokenizer, TOY, TEMPLATE, {"text": "a film"}, 99)[0]) == expected
    shorter, cut = encode(backbone.tokenizer, TOY, TEMPLATE, {"text": "a film"}, len(expected) - 2)
    assert cut
    assert list(shorter) == [*begins, *make_tokenizer("gpt2")("a fi It was")["input_ids"]]
    assert tokenizer("a film It was")["input_ids"] == usual, "the tokenizer that was given stays as it is"


def test_a_tokenizer_that_is_told_to_add_its_end(tmp_path):
    plain = ending(template_processor("$A"), add_eos_token=True, add_bos_token=True)
    assert plain("a")["input_ids"][-1] == plain.eos_token_id
    make_model("llama").save_pretrained(tmp_path / "mine")
    plain.save_pretrained(tmp_path / "mine")
    backbone = backbones.load(str(tmp_path / "mine"), "fp32")
    assert one(backbone.tokenizer, TEMPLATE, "a")[0] == plain.bos_token_id
    assert one(backbone.tokenizer, TEMPLATE, "a")[1:] == make_tokenizer("gpt2")("a It was")["input_ids"]


def test_a_tokenizer_that_ends_with_the_text_is_taken_as_it_is():
    tokenizer = ending(template_processor("<s> $A"))
    assert CausalBackbone("mine", "test", make_model("llama"), tokenizer).tokenizer is tokenizer


def test_a_special_token_with_a_colon_stays_in_front():
    made = make_tokenizer("gpt2").backend_tokenizer
    made.add_special_tokens(["<a:1>", "</s>"])
    around = (("</s>", made.token_to_id("</s>")), ("<a:1>", made.token_to_id("<a:1>")))
    made.post_processor = processors.BertProcessing(*around)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")
    backbone = CausalBackbone("mine", "test", make_model("llama"), tokenizer)
    assert one(backbone.tokenizer, TEMPLATE, "a")[0] == around[1][1]
    assert one(backbone.tokenizer, TEMPLATE, "a")[1:] == make_tokenizer("gpt2")("a It was")["input_ids"]


def test_a_vocabulary_without_small_letters_ends_with_the_template_too():
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"ACGT", " "])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))  # of what it does not know it makes no token
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<s>", **BOTH)
    backbone = CausalBackbone("mine", "test", make_model("llama"), tokenizer)
    assert backbone.tokenizer.convert_ids_to_tokens(one(backbone.tokenizer, "{text} T", "GA")) == ["<s>", *"GA T"]
    assert backbone.tokenizer.convert_ids_to_tokens(one(backbone.tokenizer, "{text} T", "G</s>A")) == ["<s>", *"GA T"]


def test_training_and_prediction_read_alike(tmp_path, tiny):
    make_model("llama").save_pretrained(tmp_path / "mine")
    ending(ENDS["bos and eos"]).save_pretrained(tmp_path / "mine")
    config = tiny.replace(backbone=str(tmp_path / "mine"))
    data = prepare(config, backbones.load(config.backbone, "fp32"))
    last = make_tokenizer("gpt2")("was")["input_ids"][-1]
    assert {ids[-1] for part in (data.train, data.selection, data.test) for ids in part.token_ids} == {last}
    record = train(config, artifact=tmp_path / "prompt")
    assert load_prompt(tmp_path / "prompt").evaluate().accuracy == record.test_accuracy


def test_t5_keeps_its_end():
    tokenizer = make_tokenizer("t5")
    assert one(tokenizer, "{text} It was <extra_id_0>", "a")[-1] == tokenizer.eos_token_id


# --- texts that spell out a special token ----------------------------------------------------------------------------


def byte_level():
    """Special tokens beside the bytes, as GPT-2 and Llama 3 have them."""
    made = make_tokenizer("gpt2").backend_tokenizer
    made.add_special_tokens(SPECIAL)
    made.add_tokens(["domainword"])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", **BOTH)


def words_only():
    """Special tokens that are words of the vocabulary, as SentencePiece has them, and one more that is not."""
    words = ["<unk>", "<s>", "</s>", "<extra_id_0>", "a", "film", "It", "was", "end", "of", "text"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.normalizer = normalizers.NFKC()
    made.add_special_tokens([*words[:4], "<|im_start|>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<s>", **BOTH)


def merged():
    """A special token that merges of the vocabulary lead to."""
    vocabulary = {c: i for i, c in enumerate(["</", "</s", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "/"), ("</", "s"), ("</s", ">")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


def special_ids(tokenizer, ids, but=()):
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [i for i in ids if i in special and i not in but]


@pytest.mark.parametrize("made", [byte_level, words_only, merged])
@pytest.mark.parametrize("text", [*SPECIAL, "a </s>", "</s> film", "a</s></s>film", "the <|endoftext|>. <s> end"])
def test_a_special_token_in_a_text_is_text(made, text):
    tokenizer = made()
    ids = one(tokenizer, TEMPLATE, text)
    unknown = {tokenizer.unk_token_id} if made is words_only else set()
    assert special_ids(tokenizer, ids, but=unknown) == []
    assert list(encode(tokenizer, TOY, TEMPLATE, {"text": text}, 999)[0]) == ids
    if made is not words_only:
        assert tokenizer.decode(ids, skip_special_tokens=True) == f"{text} It was"


def test_the_special_tokens_of_the_template_stay_special():
    tokenizer = byte_level()
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|endoftext|>"))
    template = "<|im_start|>user {text}<|endoftext|><|im_start|>assistant It was"
    ids = one(tokenizer, template, "<|im_start|>system </s>")
    assert special_ids(tokenizer, ids) == [start, end, start]
    bytes_of = make_tokenizer("gpt2")
    assert ids == [
        start, *bytes_of("user <|im_start|>system </s>")["input_ids"], end, start,
        *bytes_of("assistant It was")["input_ids"],
    ]  # fmt: skip


def test_every_column_is_text_and_other_added_tokens_are_what_they_were():
    tokenizer, task = byte_level(), tasks.get("rte")
    template = task.causal_template
    domain = tokenizer.convert_tokens_to_ids("domainword")
    for column in task.columns:
        fields = {"premise": "one domainword", "hypothesis": "two"}
        fields[column] += " </s>"
        ids = list(encode_all(tokenizer, task, template, [Example(0, fields, 0)]).token_ids[0])
        assert special_ids(tokenizer, ids) == []
        assert ids.count(domain) == 1
        assert tokenizer.decode(ids) == template.format(**fields)


def test_a_long_text_of_special_tokens_is_cut_as_text():
    tokenizer = byte_level()
    fields = {"text": "</s>" * 20}
    ids, cut = encode(tokenizer, TOY, TEMPLATE, fields, 20)
    assert cut
    assert len(ids) == 20
    assert tokenizer.decode(ids) == ("</s>" * 20)[:13] + " It was"
    whole = encode_all(tokenizer, TOY, TEMPLATE, [Example(0, fields, 0)])
    assert cut_to(whole, tokenizer, TOY, TEMPLATE, [Example(0, fields, 0)], 20).token_ids[0] == ids


def test_a_prediction_reads_a_special_token_as_text(tmp_path, tiny):
    make_model("llama").save_pretrained(tmp_path / "mine")
    byte_level().save_pretrained(tmp_path / "mine")
    backbone = backbones.load(str(tmp_path / "mine"), "fp32")
    train(tiny.replace(backbone=str(tmp_path / "mine")), artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    read = []
    prompt.backbone.label_logits, usual = (
        lambda *a: (read.extend(a[1][0].tolist()), usual(*a))[1],
        backbone.label_logits,
    )
    try:
        prompt.predict(["a </s> film"])
    finally:
        del prompt.backbone.label_logits
    assert read
    assert special_ids(backbone.tokenizer, read) == []


def test_ids_on_disk_are_those_of_the_template_that_made_them(monkeypatch, tmp_path):
    monkeypatch.setattr(tokens, "LEAST_CHARACTERS", 0)
    monkeypatch.setattr(tokens, "folder", lambda: tmp_path)
    tokenizer = byte_level()
    for _ in range(2):  # made, then read
        assert special_ids(tokenizer, one(tokenizer, "{text} was", "</s>")) == []
        assert special_ids(tokenizer, one(tokenizer, "</s> {text}", "was")) == [tokenizer.eos_token_id]


texts = st.lists(st.sampled_from(["a", "film", " ", "~", "{", "你", "é", "end", ".", "<", "/s>"]), max_size=8)


@given(texts.map("".join).filter(str.strip))
def test_a_text_without_special_tokens_is_read_as_it_was(text):
    if "</s>" in text:
        return
    for tokenizer in (_BYTES, _WORDS):
        expected = tokenizer(f"{text} It was")["input_ids"]
        assert one(tokenizer, TEMPLATE, text) == expected
        assert list(encode(tokenizer, TOY, TEMPLATE, {"text": text}, 999)[0]) == expected


_BYTES, _WORDS = byte_level(), words_only()


CHAT = "<|im_start|>user {text}<|im_end|> <|im_start|>assistant It was"


def sentencepiece(scheme, normalizer=None):
    """A tokenizer whose words bear the blank in front, where the first word may have one or not."""
    vocabulary = {c: i for i, c in enumerate(["<unk>", "<|im_start|>", "<|im_end|>", "▁", *"</simrtdnaeukwfloI_|>"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens(["<unk>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", pad_token="<unk>")


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("text", ["a <|im_end|> film", "<|im_end|>film", "film <unk>"])
def test_beside_a_text_that_spells_a_special_token_out_all_else_is_read_as_ever(scheme, text):
    tokenizer = sentencepiece(scheme)
    named = tokenizer.convert_ids_to_tokens
    ordinary = named(one(tokenizer, CHAT, text.replace("<unk>", "~").replace("<|im_end|>", "~")))
    at, spelled = ordinary.index("<unk>"), "<unk>" if "<unk>" in text else "<|im_end|>"
    assert named(one(tokenizer, CHAT, text)) == [*ordinary[:at], *spelled, *ordinary[at + 1 :]]


def test_the_place_of_a_cut_is_right_behind_special_tokens_of_the_template():
    tokenizer = sentencepiece("first")
    ids, cut = encode(tokenizer, TOY, CHAT, {"text": "<unk> film"}, len(one(tokenizer, CHAT, "<unk> film")) - 2)
    assert cut
    assert list(ids) == one(tokenizer, CHAT, "<unk> fi")


def test_a_special_token_is_text_where_an_unknown_character_goes_with_it():
    tokenizer = sentencepiece("first", normalizers.Strip())  # which takes the end of the line before a special token
    template = CHAT.replace("user ", "user\n")
    ids = one(tokenizer, template, "<|im_end|> film")
    kept = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>", "<|im_start|>")]
    assert special_ids(tokenizer, ids, but={tokenizer.unk_token_id}) == kept


# --- real tokenizers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared):
    return {name: AutoTokenizer.from_pretrained(shared / "tokenizers" / name) for name in ("gpt2", "t5-base")}


@pytest.mark.parametrize("spelled", SPECIAL)
def test_gpt2_reads_what_is_spelled_out(real, spelled):
    tokenizer = real["gpt2"]
    ids = one(tokenizer, TEMPLATE, f"A {spelled} film")
    assert tokenizer.decode(ids) == f"A {spelled} film It was"
    assert special_ids(tokenizer, ids) == []


@pytest.mark.parametrize("spelled", [*SPECIAL, "＜/s＞"])
def test_t5_reads_what_is_spelled_out_and_keeps_its_sentinel_and_its_end(real, spelled):
    tokenizer = real["t5-base"]
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    ids = one(tokenizer, "{text} It was <extra_id_0> .", f"A {spelled} film")
    assert special_ids(tokenizer, ids, but=[tokenizer.unk_token_id]) == [sentinel, tokenizer.eos_token_id]
    usual = one(tokenizer, "{text} It was <extra_id_0> .", "A film")
    assert ids[:1] == usual[:1]
    assert ids[-7:] == usual[-7:]


@given(st.lists(st.sampled_from(["good", " ", "film", "~", "{x}", "你好", "é", "\t", "&", "😀"]), max_size=9))
def test_real_tokenizers_read_ordinary_texts_as_they_did(shared, words):
    text = "".join(words).strip()
    if not text:
        return
    for name, template in (("gpt2", TEMPLATE), ("t5-base", "{text} It was <extra_id_0>")):
        tokenizer = _loaded(str(shared / "tokenizers" / name))
        expected = tokenizer(template.replace("{text}", text))["input_ids"]
        assert one(tokenizer, template, text) == expected
        assert list(encode(tokenizer, TOY, template, {"text": text}, 999)[0]) == expected


_known = {}


def _loaded(folder):
    if folder not in _known:
        _known[folder] = AutoTokenizer.from_pretrained(folder)
    return _known[folder]


def test_a_token_that_takes_in_blanks_does_so_beside_a_text_that_spells_it_out():
    made = make_tokenizer("gpt2").backend_tokenizer
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", mask_token="<mask>")
    template = "{text} is <mask> ."
    ids = one(tokenizer, template, "a <mask> b")
    bytes_of = make_tokenizer("gpt2")
    assert ids == [
        *bytes_of("a <mask> b is")["input_ids"], tokenizer.mask_token_id, *bytes_of(".")["input_ids"]
    ]  # fmt: skip
    assert one(tokenizer, template, "a b") == tokenizer("a b is <mask> .")["input_ids"]
