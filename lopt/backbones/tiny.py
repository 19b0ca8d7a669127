"""A tiny random Llama for tests and the `smoke` space: nothing to download, a forward pass in milliseconds.

Bytes are its tokens, and the label words of the built-in tasks are tokens of their own. Of other label words, which may
begin with the same byte, each has a token that stands for it where a label is read. It means nothing, like all that
this model says.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts, default_device, torch_dtype
from lopt.backbones.causal import CausalBackbone

_WIDTH, _LAYERS = 32, 2
_WINDOWS = {"tiny": 256, "tiny-long": 2048}  # the second, of the same weights, is for templates that fill the first
_WORDS = (" negative", " positive", " bad", " great", " terrible", " politics", " sports", " business", " technology",
          " yes", " no", " maybe")  # fmt: skip
_SEED = 0


def tokenizer() -> Any:
    """Byte-level tokenizer with the label words as tokens of their own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={"<pad>": 0, **{c: i for i, c in enumerate(alphabet, start=1)}}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")


class TinyBackbone(CausalBackbone):
    """A causal model with which any label words can be told apart."""

    def label_ids(self, words: Sequence[str]) -> Any:
        """The first token of each word where those differ; else words that are not tokens of their own get one each.
        ValueError when there are more words than tokens."""
        import torch

        ids = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        if len({first for first, *_ in ids}) == len(words):
            return super().label_ids(words)
        own = {word: first for word, (first, *more) in zip(words, ids, strict=True) if not more}
        free = [i for i in range(1, len(self.tokenizer)) if i not in own.values()]
        if len(words) > len(own) + len(free):
            raise ValueError(
                f"backbone {self.name} has {len(self.tokenizer) - 1} tokens for label words, and there are "
                f"{len(words)}: give another one, as in --set backbone=embedded"
            )
        stand_ins = iter(free)
        return torch.tensor([own[w] if w in own else next(stand_ins) for w in words], device=self.device)


class TinySpec:
    """Two layers of width 32, random weights from a fixed seed; of two windows."""

    name = "tiny"
    known: ClassVar[Mapping[str, Facts]] = {
        name: Facts(
            width=_WIDTH,
            layers=_LAYERS,
            vocabulary=257 + len(_WORDS),
            window=window,
            licence="none",
            size=27_200,
            projections=((_LAYERS, _WIDTH, _WIDTH), (_LAYERS, _WIDTH, _WIDTH // 2)),
        )
        for name, window in _WINDOWS.items()
    }

    def load(self, name: str, precision: str) -> Backbone:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.known[name].vocabulary,
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=self.known[name].window,
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            config._attn_implementation = "sdpa"
            model = LlamaForCausalLM(config)
        # Wider initial weights than a network to be trained would get: a frozen one must already mix its inputs.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
        return TinyBackbone(name, self.revision(name), model.to(default_device(), torch_dtype(precision)), tokenizer())

    def revision(self, name: str) -> str:
        return f"random seed {_SEED}"


SPEC = TinySpec()
