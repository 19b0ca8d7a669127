"""Types of libraries that take long to import, by names that stand in annotations alone."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch
    import transformers

Tensor: TypeAlias = "torch.Tensor"
Tokenizer: TypeAlias = "transformers.PreTrainedTokenizerBase"
