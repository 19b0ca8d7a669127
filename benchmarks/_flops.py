"""The floating-point operations of what a training step computes.

Every token costs 4 for each weight that it passes: 2 forward, and 2 backward for the gradient of its input. Frozen
weights have no gradient. Products of attention's queries, keys and values with one another are not counted.
"""

from typing import Any

from benchmarks.limit import count_block_weights

_FLOPS_PER_TOKEN_AND_WEIGHT = 4.0


def is_flat(backbone: Any) -> bool:
    """Return whether passes of a backbone take the flat form, which has no padding."""
    return getattr(backbone, "flat", None) is not None


def step_flops(
    backbone: Any, *, prompt_length: int, batch_size: int, text_tokens: float, flat: bool, placement: str = "prefix"
) -> float:
    """Return the FLOPs of one step of one trial. Padding is not counted.

    Args:
        text_tokens: the tokens of all texts of a batch.
        flat: whether the contender takes the flat form. A causal model then computes a prefix once for all rows, takes
            texts before a suffix from its store, and computes the last MLP only where labels are read.
    """
    model, prompt_tokens = backbone.model, batch_size * prompt_length
    weights = count_block_weights(model)
    if model.config.is_encoder_decoder:
        decoder_tokens = 2 * batch_size
        encoder_weights = sum(weight.numel() for weight in model.get_encoder().block.parameters())
        cross_weights = _cross_attention_weights(model)
        token_weights = (encoder_weights + cross_weights) * (prompt_tokens + text_tokens)
        token_weights += (weights - encoder_weights - cross_weights) * decoder_tokens
        return _FLOPS_PER_TOKEN_AND_WEIGHT * token_weights
    if not flat:
        return _FLOPS_PER_TOKEN_AND_WEIGHT * weights * (prompt_tokens + text_tokens)
    tokens = prompt_length + text_tokens if placement == "prefix" else float(prompt_tokens)
    left_out_weights = _last_mlp_weights(model) * (tokens - batch_size)
    return _FLOPS_PER_TOKEN_AND_WEIGHT * (weights * tokens - left_out_weights)


def _cross_attention_weights(model: Any) -> int:
    """Return the number of weights of a T5 decoder that the encoder's tokens pass: keys and values of attention."""
    attentions = [block.layer[1].EncDecAttention for block in model.get_decoder().block]
    return sum(attention.k.weight.numel() + attention.v.weight.numel() for attention in attentions)


def _last_mlp_weights(model: Any) -> int:
    from torch.nn import ModuleList

    layer_count = model.config.num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, ModuleList) and len(module) == layer_count]
    return sum(weight.numel() for weight in stacks[0][-1].mlp.parameters())
