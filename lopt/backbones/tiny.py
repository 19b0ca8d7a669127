"""A tiny random Llama for tests and the `smoke` space: nothing to download, a forward pass in milliseconds.

Its tokens are the bytes and the label words of the built-in tasks, but for number words. If two other label words
begin with the same byte, each is given an unused token of its own, and its logit is read at that token. The token has
no meaning, but neither has any answer of a random model.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lopt.backbones import Backbone, Facts, default_device, torch_dtype
from lopt.backbones.causal import CausalBackbone

_WIDTH, _LAYERS = 32, 2
_WINDOWS = {"tiny": 256, "tiny-long": 2048}  # the second is for long templates
_LABEL_WORDS = (" negative", " positive", " bad", " great", " terrible", " politics", " sports", " business",
                " technology", " yes", " no", " maybe")  # fmt: skip
_SEED = 0  # of the weights


def tokenizer() -> Any:
    """Return a byte-level tokenizer in which each label word of the built-in tasks is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, **{byte_letter: i for i, byte_letter in enumerate(alphabet, start=1)}}
    byte_tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    byte_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_tokenizer.decoder = decoders.ByteLevel()
    byte_tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _LABEL_WORDS])
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer, pad_token="<pad>")


class TinyBackbone(CausalBackbone):
    """A causal model that can tell any label words apart."""

    def label_ids(self, words: Sequence[str]) -> Any:
        """Return one token for each word, `[C]`: the words' first tokens if these differ. If not, every word that is
        not a token itself is given a token that is not in use.

        Raises:
            ValueError: there are more words than tokens.
        """
        import torch

        ids_by_word = {word: self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words}
        if len({first_id for first_id, *_ in ids_by_word.values()}) == len(words):
            return super().label_ids(words)
        id_of_word = {word: ids[0] for word, ids in ids_by_word.items() if len(ids) == 1}
        unused_ids = [i for i in range(1, len(self.tokenizer)) if i not in id_of_word.values()]
        if len(words) > len(id_of_word) + len(unused_ids):
            raise ValueError(
                f"backbone {self.name} has {len(self.tokenizer) - 1} tokens for label words, but there are "
                f"{len(words)} label words: give another backbone, as in --set backbone=embedded"
            )
        unused_id_iterator = iter(unused_ids)
        ids = [id_of_word[word] if word in id_of_word else next(unused_id_iterator) for word in words]
        return torch.tensor(ids, device=self.device)


class TinySpec:
    """Two layers of width 32 with random weights from a fixed seed, under two names with different windows."""

    name = "tiny"
    known: ClassVar[Mapping[str, Facts]] = {
        name: Facts(
            width=_WIDTH,
            layers=_LAYERS,
            vocabulary=257 + len(_LABEL_WORDS),
            window=window,
            licence="none",
            weight_count=27_200,
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
        # The weights are larger than in a network to be trained, because a frozen one must already mix its inputs.
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4)
        return TinyBackbone(name, self.revision(name), model.to(default_device(), torch_dtype(precision)), tokenizer())

    def revision(self, name: str) -> str:
        return f"random seed {_SEED}"


SPEC = TinySpec()
