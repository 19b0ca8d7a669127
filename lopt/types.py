"""Types of libraries that take long to import. These names are for annotations only."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    import transformers

Tensor: TypeAlias = "torch.Tensor"
Tokenizer: TypeAlias = "transformers.PreTrainedTokenizerBase"
