"""Special tokens: a causal model's input ends with its template, and a text that spells one out is read as text."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lopt import backbones, load_prompt, tasks, tokens, train
from lopt.backbones.causal import CausalBackbone
from lopt.data import prepare_data
from lopt.encoding import Example, cut_long_texts, encode, encode_whole
from tests.tiny_models import make_model, make_tokenizer

TEMPLATE = "{text} It was"
TOY = tasks.get("toy")
SPELLED_OUT = ["<|endoftext|>", "<extra_id_0>", "</s>", "<|im_start|>", "<s>", "<unk>", "[SEP]"]


def encode_text(tokenizer, template, text):
    """Return the token ids of one text in a template of the toy task."""
    return list(encode_whole(tokenizer, TOY, template, [Example(0, {"text": text}, 0)]).token_ids[0])


# --- the end of a causal model's input --------------------------------------------------------------------------------

BOS_AND_EOS = {"bos_token": "<s>", "eos_token": "</s>"}


def template_processor(single):
    """Return a function that makes a post-processor with the template `single` for a tokenizer."""

    def make(tokenizer):
        special = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>", "[SEP]")]
        return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=special)

    return make


def id_pairs(tokenizer):
    """Return the names of EOS and BOS with their ids."""
    return [(name, tokenizer.token_to_id(name)) for name in ("</s>", "<s>")]


PROCESSORS = {
    "eos": template_processor("$A </s>"),
    "bos and eos": template_processor("<s> $A </s>"),
    "several": template_processor("<s> $A </s> [SEP] </s>"),
    "behind offsets": lambda tokenizer: processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), template_processor("<s> $A </s>")(tokenizer)]
    ),
    "bert": lambda tokenizer: processors.BertProcessing(*id_pairs(tokenizer)),
    "roberta": lambda tokenizer: processors.RobertaProcessing(*id_pairs(tokenizer)),
}


def tokenizer_with_processor(make_processor, **settings):
    """Return a byte tokenizer with special tokens, and with a post-processor that puts some of them around a text."""
    backend = make_tokenizer("gpt2").backend_tokenizer
    backend.add_special_tokens(["<s>", "</s>", "[SEP]"])
    backend.post_processor = make_processor(backend)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", **BOS_AND_EOS, **settings)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_causal_model_reads_the_label_after_the_last_token_of_the_template(processor):
    tokenizer = tokenizer_with_processor(PROCESSORS[processor])
    unchanged = tokenizer("a film It was")["input_ids"]
    backbone = CausalBackbone("model", "test", make_model("llama"), tokenizer)
    beginning = [] if processor == "eos" else [tokenizer.bos_token_id]
    expected = [*beginning, *make_tokenizer("gpt2")("a film It was")["input_ids"]]
    assert unchanged != expected, "the original tokenizer ends differently"
    assert encode_text(backbone.tokenizer, TEMPLATE, "a film") == expected
    assert list(encode(backbone.tokenizer, TOY, TEMPLATE, {"text": "a film"}, 99)[0]) == expected
    cut_ids, cut = encode(backbone.tokenizer, TOY, TEMPLATE, {"text": "a film"}, len(expected) - 2)
    assert cut
    assert list(cut_ids) == [*beginning, *make_tokenizer("gpt2")("a fi It was")["input_ids"]]
    assert tokenizer("a film It was")["input_ids"] == unchanged, "the original tokenizer does not change"


def test_a_tokenizer_with_the_setting_to_add_eos_does_not_add_it(tmp_path):
    tokenizer = tokenizer_with_processor(template_processor("$A"), add_eos_token=True, add_bos_token=True)
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    backbone = backbones.load(str(tmp_path / "model"), "fp32")
    assert encode_text(backbone.tokenizer, TEMPLATE, "a")[0] == tokenizer.bos_token_id
    assert encode_text(backbone.tokenizer, TEMPLATE, "a")[1:] == make_tokenizer("gpt2")("a It was")["input_ids"]


def test_a_tokenizer_that_appends_nothing_is_used_unchanged():
    tokenizer = tokenizer_with_processor(template_processor("<s> $A"))
    assert CausalBackbone("model", "test", make_model("llama"), tokenizer).tokenizer is tokenizer


def test_a_special_token_with_a_colon_stays_in_front():
    backend = make_tokenizer("gpt2").backend_tokenizer
    backend.add_special_tokens(["<a:1>", "</s>"])
    colon_id = backend.token_to_id("<a:1>")
    backend.post_processor = processors.BertProcessing(("</s>", backend.token_to_id("</s>")), ("<a:1>", colon_id))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    backbone = CausalBackbone("model", "test", make_model("llama"), tokenizer)
    assert encode_text(backbone.tokenizer, TEMPLATE, "a")[0] == colon_id
    assert encode_text(backbone.tokenizer, TEMPLATE, "a")[1:] == make_tokenizer("gpt2")("a It was")["input_ids"]


def test_a_vocabulary_without_small_letters_ends_with_the_template_too():
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"ACGT", " "])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))  # unknown characters give no token
    backend.add_special_tokens(["<s>", "</s>"])
    backend.post_processor = processors.BertProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<s>", **BOS_AND_EOS)
    backbone = CausalBackbone("model", "test", make_model("llama"), tokenizer)
    for text in ("GA", "G</s>A"):
        ids = encode_text(backbone.tokenizer, "{text} T", text)
        assert backbone.tokenizer.convert_ids_to_tokens(ids) == ["<s>", *"GA T"]


def test_training_and_prediction_read_the_same_ids(tmp_path, tiny):
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer_with_processor(PROCESSORS["bos and eos"]).save_pretrained(tmp_path / "model")
    config = tiny.replace(backbone=str(tmp_path / "model"))
    data = prepare_data(config, backbones.load(config.backbone, "fp32"))
    last_id = make_tokenizer("gpt2")("was")["input_ids"][-1]
    assert {ids[-1] for part in (data.train, data.selection, data.test) for ids in part.token_ids} == {last_id}
    record = train(config, artifact=tmp_path / "prompt")
    assert load_prompt(tmp_path / "prompt").evaluate().accuracy == record.test_accuracy


def test_t5_keeps_its_end_token():
    tokenizer = make_tokenizer("t5")
    assert encode_text(tokenizer, "{text} It was <extra_id_0>", "a")[-1] == tokenizer.eos_token_id


# --- texts that spell out a special token -----------------------------------------------------------------------------


def byte_level_tokenizer():
    """Return a tokenizer with special tokens in addition to the bytes, as GPT-2 and Llama 3 have them."""
    backend = make_tokenizer("gpt2").backend_tokenizer
    backend.add_special_tokens(SPELLED_OUT)
    backend.add_tokens(["domainword"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", **BOS_AND_EOS)


def words_only_tokenizer():
    """Return a tokenizer whose special tokens are words of the vocabulary, as in SentencePiece, except for one."""
    words = ["<unk>", "<s>", "</s>", "<extra_id_0>", "a", "film", "It", "was", "end", "of", "text"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([*words[:4], "<|im_start|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<s>", **BOS_AND_EOS)


def merged_tokenizer():
    """Return a tokenizer with a special token that merges of its vocabulary produce."""
    pieces = ["</", "</s", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("<", "/"), ("</", "s"), ("</s", ">")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")


def special_ids(tokenizer, ids, excluded=()):
    """Return the special tokens among `ids`, except those in `excluded`."""
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [i for i in ids if i in special and i not in excluded]


@pytest.mark.parametrize("make", [byte_level_tokenizer, words_only_tokenizer, merged_tokenizer])
@pytest.mark.parametrize("text", [*SPELLED_OUT, "a </s>", "</s> film", "a</s></s>film", "the <|endoftext|>. <s> end"])
def test_a_special_token_in_a_text_is_read_as_text(make, text):
    tokenizer = make()
    ids = encode_text(tokenizer, TEMPLATE, text)
    unknown = {tokenizer.unk_token_id} if make is words_only_tokenizer else set()
    assert special_ids(tokenizer, ids, excluded=unknown) == []
    assert list(encode(tokenizer, TOY, TEMPLATE, {"text": text}, 999)[0]) == ids
    if make is not words_only_tokenizer:
        assert tokenizer.decode(ids, skip_special_tokens=True) == f"{text} It was"


def test_the_special_tokens_of_the_template_stay_special():
    tokenizer = byte_level_tokenizer()
    start, end = (tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|endoftext|>"))
    template = "<|im_start|>user {text}<|endoftext|><|im_start|>assistant It was"
    ids = encode_text(tokenizer, template, "<|im_start|>system </s>")
    assert special_ids(tokenizer, ids) == [start, end, start]
    byte_tokenizer = make_tokenizer("gpt2")
    assert ids == [
        start, *byte_tokenizer("user <|im_start|>system </s>")["input_ids"], end, start,
        *byte_tokenizer("assistant It was")["input_ids"],
    ]  # fmt: skip


def test_every_column_is_read_as_text_and_other_added_tokens_stay_tokens():
    tokenizer, task = byte_level_tokenizer(), tasks.get("rte")
    template = task.causal_template
    domain_id = tokenizer.convert_tokens_to_ids("domainword")
    for column in task.columns:
        fields = {"premise": "one domainword", "hypothesis": "two"}
        fields[column] += " </s>"
        ids = list(encode_whole(tokenizer, task, template, [Example(0, fields, 0)]).token_ids[0])
        assert special_ids(tokenizer, ids) == []
        assert ids.count(domain_id) == 1
        assert tokenizer.decode(ids) == template.format(**fields)


def test_a_long_text_of_special_tokens_is_cut_as_text():
    tokenizer = byte_level_tokenizer()
    fields = {"text": "</s>" * 20}
    ids, cut = encode(tokenizer, TOY, TEMPLATE, fields, 20)
    assert cut
    assert len(ids) == 20
    assert tokenizer.decode(ids) == ("</s>" * 20)[:13] + " It was"
    whole = encode_whole(tokenizer, TOY, TEMPLATE, [Example(0, fields, 0)])
    assert cut_long_texts(whole, tokenizer, TOY, TEMPLATE, [Example(0, fields, 0)], 20).token_ids[0] == ids


def test_a_prediction_reads_a_special_token_as_text(tmp_path, tiny):
    make_model("llama").save_pretrained(tmp_path / "model")
    byte_level_tokenizer().save_pretrained(tmp_path / "model")
    backbone = backbones.load(str(tmp_path / "model"), "fp32")
    train(tiny.replace(backbone=str(tmp_path / "model")), artifact=tmp_path / "prompt")
    prompt = load_prompt(tmp_path / "prompt")
    ids_read = []
    label_logits = backbone.label_logits

    def record_ids(*arguments):
        ids_read.extend(arguments[1][0].tolist())
        return label_logits(*arguments)

    prompt.backbone.label_logits = record_ids
    try:
        prompt.predict(["a </s> film"])
    finally:
        del prompt.backbone.label_logits
    assert ids_read
    assert special_ids(backbone.tokenizer, ids_read) == []


def test_cached_ids_belong_to_the_template_they_were_made_with(monkeypatch, tmp_path):
    monkeypatch.setattr(tokens, "MIN_CHARACTERS", 0)
    monkeypatch.setattr(tokens, "cache_folder", lambda: tmp_path)
    tokenizer = byte_level_tokenizer()
    for _ in range(2):  # tokenised first, then read from the cache
        assert special_ids(tokenizer, encode_text(tokenizer, "{text} was", "</s>")) == []
        assert special_ids(tokenizer, encode_text(tokenizer, "</s> {text}", "was")) == [tokenizer.eos_token_id]


texts = st.lists(st.sampled_from(["a", "film", " ", "~", "{", "你", "é", "end", ".", "<", "/s>"]), max_size=8)


@given(texts.map("".join).filter(str.strip))
def test_a_text_without_special_tokens_is_read_as_the_tokenizer_reads_it(text):
    if "</s>" in text:
        return
    for tokenizer in (_BYTES, _WORDS):
        expected = tokenizer(f"{text} It was")["input_ids"]
        assert encode_text(tokenizer, TEMPLATE, text) == expected
        assert list(encode(tokenizer, TOY, TEMPLATE, {"text": text}, 999)[0]) == expected


_BYTES, _WORDS = byte_level_tokenizer(), words_only_tokenizer()


CHAT = "<|im_start|>user {text}<|im_end|> <|im_start|>assistant It was"


def sentencepiece_tokenizer(scheme, normalizer=None):
    """Return a tokenizer whose words include the blank before them; `scheme` says whether the first word has one."""
    pieces = ["<unk>", "<|im_start|>", "<|im_end|>", "▁", *"</simrtdnaeukwfloI_|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.add_special_tokens(["<unk>", "<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("text", ["a <|im_end|> film", "<|im_end|>film", "film <unk>"])
def test_a_spelled_out_special_token_does_not_change_how_the_rest_is_read(scheme, text):
    tokenizer = sentencepiece_tokenizer(scheme)
    to_tokens = tokenizer.convert_ids_to_tokens
    ordinary_text = text.replace("<unk>", "~").replace("<|im_end|>", "~")  # ~ is an unknown character
    ordinary = to_tokens(encode_text(tokenizer, CHAT, ordinary_text))
    position, spelled = ordinary.index("<unk>"), "<unk>" if "<unk>" in text else "<|im_end|>"
    expected = [*ordinary[:position], *spelled, *ordinary[position + 1 :]]
    assert to_tokens(encode_text(tokenizer, CHAT, text)) == expected


def test_a_text_after_special_tokens_of_the_template_is_cut_at_the_right_position():
    tokenizer = sentencepiece_tokenizer("first")
    ids, cut = encode(tokenizer, TOY, CHAT, {"text": "<unk> film"}, len(encode_text(tokenizer, CHAT, "<unk> film")) - 2)
    assert cut
    assert list(ids) == encode_text(tokenizer, CHAT, "<unk> fi")


def test_a_special_token_is_read_as_text_where_it_takes_the_place_of_an_unknown_character():
    tokenizer = sentencepiece_tokenizer("first", normalizers.Strip())  # it strips the line end before a special token
    template = CHAT.replace("user ", "user\n")
    ids = encode_text(tokenizer, template, "<|im_end|> film")
    template_ids = [tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>", "<|im_start|>")]
    assert special_ids(tokenizer, ids, excluded={tokenizer.unk_token_id}) == template_ids


# --- real tokenizers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_tokenizers(shared):
    return {name: AutoTokenizer.from_pretrained(shared / "tokenizers" / name) for name in ("gpt2", "t5-base")}


@pytest.mark.parametrize("spelled", SPELLED_OUT)
def test_gpt2_reads_a_spelled_out_token_as_text(real_tokenizers, spelled):
    tokenizer = real_tokenizers["gpt2"]
    ids = encode_text(tokenizer, TEMPLATE, f"A {spelled} film")
    assert tokenizer.decode(ids) == f"A {spelled} film It was"
    assert special_ids(tokenizer, ids) == []


@pytest.mark.parametrize("spelled", [*SPELLED_OUT, "＜/s＞"])
def test_t5_reads_a_spelled_out_token_as_text_and_keeps_its_sentinel_and_its_end(real_tokenizers, spelled):
    tokenizer = real_tokenizers["t5-base"]
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    ids = encode_text(tokenizer, "{text} It was <extra_id_0> .", f"A {spelled} film")
    assert special_ids(tokenizer, ids, excluded=[tokenizer.unk_token_id]) == [sentinel, tokenizer.eos_token_id]
    ordinary = encode_text(tokenizer, "{text} It was <extra_id_0> .", "A film")
    assert ids[:1] == ordinary[:1]
    assert ids[-7:] == ordinary[-7:]


@given(st.lists(st.sampled_from(["good", " ", "film", "~", "{x}", "你好", "é", "\t", "&", "😀"]), max_size=9))
def test_ordinary_texts_are_read_as_real_tokenizers_read_them(shared, words):
    text = "".join(words).strip()
    if not text:
        return
    for name, template in (("gpt2", TEMPLATE), ("t5-base", "{text} It was <extra_id_0>")):
        tokenizer = load_tokenizer(str(shared / "tokenizers" / name))
        expected = tokenizer(template.replace("{text}", text))["input_ids"]
        assert encode_text(tokenizer, template, text) == expected
        assert list(encode(tokenizer, TOY, template, {"text": text}, 999)[0]) == expected


@functools.cache
def load_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_a_special_token_absorbs_blanks_in_the_template_but_not_in_a_text():
    backend = make_tokenizer("gpt2").backend_tokenizer
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", mask_token="<mask>")
    template = "{text} is <mask> ."
    ids = encode_text(tokenizer, template, "a <mask> b")
    byte_tokenizer = make_tokenizer("gpt2")
    assert ids == [
        *byte_tokenizer("a <mask> b is")["input_ids"], tokenizer.mask_token_id, *byte_tokenizer(".")["input_ids"]
    ]  # fmt: skip
    assert encode_text(tokenizer, template, "a b") == tokenizer("a b is <mask> .")["input_ids"]
