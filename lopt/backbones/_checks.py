"""What is checked once, when a model is loaded: whether a soft prompt can stand at its input, and whether its files
belong to it."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from lopt.types import Tensor

# What files of older releases hold beside weights: tables that are computed from the config.
_TABLES = re.compile(r"rotary_emb\.|inv_freq$|masked_bias$|causal_mask$|(attn|attention)\.bias$")


def refuse_unfit(backbone: Any, logits_of: Callable[..., Tensor]) -> None:
    """Refuses a model at whose input a soft prompt cannot stand.

    Args:
        logits_of: the model's own logits `[B, T, V]` of `inputs_embeds` `[B, S, H]` or `input_ids` `[B, S]`. Of a
            causal model T is S; of an encoder-decoder it is the number of the decoder's tokens.

    Raises:
        ValueError: it cannot be run on embeddings, they do not say all that it reads of a token, a causal model sees
            the tokens that follow, an answer depends on the other texts of a batch, or numbers are not finite.
    """
    import torch

    from lopt import memory

    model, name, kind = backbone.model, backbone.name, backbone.model.config.model_type
    other = f"models of type {kind}"
    parameters = inspect.signature(model.forward).parameters
    if "inputs_embeds" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {other} take token ids only; give another model"
        )
    rounding = 0.05 if backbone.dtype == torch.bfloat16 else 1e-3
    ids_BT = backbone.some_ids(2, 16)
    embeds_BTH = model.get_input_embeddings()(ids_BT)
    prompted_BTH = embeds_BTH.clone()
    prompted_BTH[:, 0] = embeds_BTH[:, :2].mean(dim=1)  # no token's embedding, as a soft prompt is
    try:
        if not _pytorchs_attention_holds(model, lambda: logits_of(inputs_embeds=prompted_BTH.clone()), rounding):
            model.set_attn_implementation("eager")
        # Cloned: CTRL scales its inputs in place.
        both_BTV = logits_of(inputs_embeds=prompted_BTH.clone())
        alone_TV = logits_of(inputs_embeds=prompted_BTH[:1].clone())[0]
        part_TV = logits_of(inputs_embeds=prompted_BTH[:1, :8].clone())[0]
        by_id_TV = logits_of(input_ids=ids_BT[:1])[0]
        by_embedding_TV = logits_of(inputs_embeds=embeds_BTH[:1].clone())[0]
        with torch.enable_grad():
            some = prompted_BTH[:1, :8].clone().requires_grad_()
            logits_of(inputs_embeds=some.clone()).sum().backward()
    except Exception as error:  # whatever a family's own code raises on what it cannot do
        if memory.ran_out(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {other} cannot be run on embeddings, or give no gradient of "
            f"them ({reason})"
        ) from error
    if not part_TV.isfinite().all():
        raise ValueError(f"backbone {name!r} gives numbers that are not finite: its weights are damaged")
    is_causal = not model.config.is_encoder_decoder
    if is_causal and not _mostly_equal(alone_TV[:8], part_TV, rounding):
        raise ValueError(
            f"backbone {name!r} looks at the tokens that follow, as encoders such as BERT do: give a decoder "
            "(GPT-2, Llama and kin) or an encoder-decoder of T5's kind"
        )
    if not _mostly_equal(both_BTV[0], alone_TV, rounding):
        raise ValueError(
            f"backbone {name!r}: what {other} say of a text depends on the other texts of its batch; give another model"
        )
    if not _mostly_equal(by_id_TV, by_embedding_TV, rounding):
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {other} read more of a token than its embedding at the "
            "input; give another model"
        )


def refuse_unread(name: str, model: Any, unexpected: Iterable[str]) -> None:
    """Refuses a model some of whose weights lie in its files and have no place in it, where they belong to a layer: the
    model would be another one than was trained. Heads for other uses and the like are left out with good reason, as are
    the last layers that predict further tokens. ValueError when a layer, or a part of one, has no place in the model.

    unexpected: names of weights in the files that the model has not.
    """
    from torch.nn import ModuleList

    stacks = [stack for stack, module in model.named_modules() if isinstance(module, ModuleList)]
    stacks += [stack.removeprefix(f"{model.base_model_prefix}.") for stack in stacks]
    layers = re.compile(rf"({'|'.join(map(re.escape, stacks))})\.(\d+)\." if stacks else r"(?!)")
    usual = getattr(model.config, "num_hidden_layers", 0)
    predict = range(usual, usual + (getattr(model.config, "num_nextn_predict_layers", None) or 0))
    unread = sorted(
        key
        for key in unexpected
        if (place := layers.match(key)) and not _TABLES.search(key) and int(place[2]) not in predict
    )
    if unread:
        raise ValueError(
            f"backbone {name!r}: its files hold {len(unread)} weights of layers that a {model.config.model_type} model "
            f"of its config.json has not ({', '.join(unread[:3])}{', …' if len(unread) > 3 else ''}): its config.json "
            "is another model's, or it is an adapter's or a quantised model's file"
        )


def _pytorchs_attention_holds(model: Any, logits: Callable[[], Tensor], rounding: float) -> bool:
    """Whether PyTorch's attention, where the model uses it, gives what the family's own gives.

    Some families accept it and leave out what it cannot do, such as T5Gemma, which caps its scores.
    """
    if model.config._attn_implementation != "sdpa":
        return True
    configs = (model.config, *(getattr(model.config, part, None) for part in ("encoder", "decoder")))
    if any(getattr(config, "attn_logit_softcapping", None) for config in configs):  # too little to see in bf16
        return False
    by_pytorch_BTV = logits()
    model.set_attn_implementation("eager")
    by_family_BTV = logits()
    model.set_attn_implementation("sdpa")
    return _mostly_equal(by_pytorch_BTV[0], by_family_BTV[0], rounding)


def _mostly_equal(some_TV: Tensor, others_TV: Tensor, rounding: float) -> bool:
    """Whether most tokens have the same logits: rounding may send a few of them to another expert."""
    distance_T = (some_TV - others_TV).norm(dim=-1) / others_TV.norm(dim=-1)
    return bool(distance_T.median() <= rounding)
