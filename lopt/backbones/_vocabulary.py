"""The token embeddings of a backbone, from which methods take initial values of prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_SCALE_TOKEN_COUNT = 5000  # number of the commonest tokens whose embeddings say how large embeddings are


@dataclass(frozen=True)
class Vocabulary:
    """A backbone's token embeddings, from which methods take initial values of prompts.

    Attributes:
        embed: a function that returns the embeddings `[..., H]` of token ids `[...]` as the model sees them. Some
            families scale them.
        size: number of rows of the embeddings.
    """

    embed: Any
    size: int
    tokenizer: Any
    label_words: tuple[str, ...]

    def token_embeddings(self, ids: np.ndarray) -> np.ndarray:
        """Return the embeddings `[X, H]` of token ids `[X]`, in float64."""
        return self.embed(ids).double().cpu().numpy()

    def ordinary_token_ids(self, count: int) -> np.ndarray:
        """Return the first `count` token ids that are not special.

        They belong to the commonest tokens, because vocabularies are sorted by frequency or in the order of BPE's
        merges.
        """
        import numpy as np

        special_ids = set(self.tokenizer.all_special_ids)
        token_count = min(len(self.tokenizer), self.size)
        first_ids = range(min(token_count, count + len(special_ids)))
        return np.array([token_id for token_id in first_ids if token_id not in special_ids][:count])

    @property
    def scale(self) -> float:
        """Root mean square of the entries of the commonest tokens' embeddings."""
        import numpy as np

        return float(np.sqrt(np.mean(self.token_embeddings(self.ordinary_token_ids(_SCALE_TOKEN_COUNT)) ** 2)))

    def label_word_embeddings(self) -> np.ndarray:
        """Return the mean embedding of each label word's tokens, `[C, H]`, float64."""
        import numpy as np

        ids_by_word = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in self.label_words]
        return np.stack([self.token_embeddings(np.array(ids)).mean(axis=0) for ids in ids_by_word])
