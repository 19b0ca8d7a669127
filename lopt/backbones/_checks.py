"""Checks of a model when it is loaded: can it have a soft prompt at its input, and do its files belong together?"""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from lopt.types import Tensor

# Matches names of tables that are computed from the config. Files of older releases of transformers hold such tables
# beside the weights.
_COMPUTED_TABLE_NAME = re.compile(r"rotary_emb\.|inv_freq$|masked_bias$|causal_mask$|(attn|attention)\.bias$")


def refuse_unfit_model(backbone: Any, compute_logits: Callable[..., Tensor]) -> None:
    """Refuse a model that cannot have a soft prompt at its input.

    If PyTorch's attention gives other results than the family's own, the model is switched to the family's own.

    Args:
        compute_logits: returns the model's own logits `[B, T, V]` for `inputs_embeds` `[B, S, H]` or `input_ids`
            `[B, S]`. For a causal model T is S. For an encoder-decoder T is the number of the decoder's tokens.

    Raises:
        ValueError: the model cannot run on embeddings; it uses token ids for more than their embeddings; it is causal
            and sees later tokens; an answer depends on the other texts of a batch; or its output is not finite.
    """
    import torch

    from lopt import memory

    model, name = backbone.model, backbone.name
    models_of_type = f"models of type {model.config.model_type}"
    parameters = inspect.signature(model.forward).parameters.values()
    parameter_names = {parameter.name for parameter in parameters}
    takes_any_keyword = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if "inputs_embeds" not in parameter_names and not takes_any_keyword:
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {models_of_type} take token ids only; give another model"
        )
    tolerance = 0.05 if backbone.dtype == torch.bfloat16 else 1e-3
    ids_BT = backbone.sample_ids(2, 16)
    embeddings_BTH = model.get_input_embeddings()(ids_BT)
    prompted_BTH = embeddings_BTH.clone()
    prompted_BTH[:, 0] = embeddings_BTH[:, :2].mean(dim=1)  # like a soft prompt: not the embedding of any token
    try:
        if not _torch_attention_agrees(model, lambda: compute_logits(inputs_embeds=prompted_BTH.clone()), tolerance):
            model.set_attn_implementation("eager")
        # The inputs are cloned because CTRL scales them in place.
        batch_BTV = compute_logits(inputs_embeds=prompted_BTH.clone())
        alone_TV = compute_logits(inputs_embeds=prompted_BTH[:1].clone())[0]
        beginning_TV = compute_logits(inputs_embeds=prompted_BTH[:1, :8].clone())[0]
        from_ids_TV = compute_logits(input_ids=ids_BT[:1])[0]
        from_embeddings_TV = compute_logits(inputs_embeds=embeddings_BTH[:1].clone())[0]
        with torch.enable_grad():
            differentiated_BTH = prompted_BTH[:1, :8].clone().requires_grad_()
            compute_logits(inputs_embeds=differentiated_BTH.clone()).sum().backward()
    except Exception as error:  # a family's own code may raise anything
        if memory.is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {models_of_type} cannot be run on embeddings, or give no "
            f"gradient for them ({reason}); give another model"
        ) from error
    if not beginning_TV.isfinite().all():
        raise ValueError(
            f"backbone {name!r} gives numbers that are not finite: its weights are damaged; fetch them again"
        )
    is_causal = not model.config.is_encoder_decoder
    if is_causal and not _mostly_equal(alone_TV[:8], beginning_TV, tolerance):
        raise ValueError(
            f"backbone {name!r} looks at the tokens that follow, as encoders such as BERT do: give a decoder "
            "(GPT-2, Llama and similar) or an encoder-decoder like T5"
        )
    if not _mostly_equal(batch_BTV[0], alone_TV, tolerance):
        raise ValueError(
            f"backbone {name!r}: the answer of {models_of_type} to a text depends on the other texts of its batch; "
            "give another model"
        )
    if not _mostly_equal(from_ids_TV, from_embeddings_TV, tolerance):
        raise ValueError(
            f"backbone {name!r} cannot have a soft prompt: {models_of_type} use token ids for more than their "
            "embeddings at the input; give another model"
        )


def refuse_unused_weights(name: str, model: Any, unused_names: Iterable[str]) -> None:
    """Refuse a model if its files hold weights of a layer that have no place in the model.

    Without such weights the model would not be the one that was trained. Other weights may be left out: for example
    heads for other uses, and the last layers of models that predict several tokens at once.

    Args:
        unused_names: names of weights that are in the files and not in the model.

    Raises:
        ValueError: a layer, or a part of a layer, has no place in the model.
    """
    from torch.nn import ModuleList

    stack_names = [stack_name for stack_name, module in model.named_modules() if isinstance(module, ModuleList)]
    stack_names += [stack_name.removeprefix(f"{model.base_model_prefix}.") for stack_name in stack_names]
    layer_weight = re.compile(rf"({'|'.join(map(re.escape, stack_names))})\.(\d+)\." if stack_names else r"(?!)")
    layer_count = getattr(model.config, "num_hidden_layers", 0)
    extra_layer_count = getattr(model.config, "num_nextn_predict_layers", None) or 0
    extra_layer_numbers = range(layer_count, layer_count + extra_layer_count)  # for tokens after the next one
    refused_names = sorted(
        weight_name
        for weight_name in unused_names
        if (match := layer_weight.match(weight_name))
        and not _COMPUTED_TABLE_NAME.search(weight_name)
        and int(match[2]) not in extra_layer_numbers
    )
    if refused_names:
        raise ValueError(
            f"backbone {name!r}: its files hold weights of layers that a {model.config.model_type} model with this "
            f"config.json does not have ({', '.join(refused_names[:3])}{', …' if len(refused_names) > 3 else ''}; "
            f"{len(refused_names)} in all). config.json belongs to another model, or the weights are those of an "
            "adapter or a quantised model"
        )


def _torch_attention_agrees(model: Any, compute_logits: Callable[[], Tensor], tolerance: float) -> bool:
    """Return whether PyTorch's attention, if the model uses it, gives what the family's own attention gives.

    Some families of models run with PyTorch's attention, but without a step that it lacks. T5Gemma, for example, caps
    its attention scores.
    """
    if model.config._attn_implementation != "sdpa":
        return True
    configs = (model.config, *(getattr(model.config, part, None) for part in ("encoder", "decoder")))
    if any(getattr(config, "attn_logit_softcapping", None) for config in configs):
        return False  # PyTorch's attention does not cap scores; a comparison in bf16 would not show this
    logits_by_torch_BTV = compute_logits()
    model.set_attn_implementation("eager")
    logits_by_family_BTV = compute_logits()
    model.set_attn_implementation("sdpa")
    return _mostly_equal(logits_by_torch_BTV[0], logits_by_family_BTV[0], tolerance)


def _mostly_equal(logits_TV: Tensor, expected_TV: Tensor, tolerance: float) -> bool:
    """Return whether most tokens have the same logits.

    In a mixture of experts, rounding may send a few tokens to another expert.
    """
    relative_distance_T = (logits_TV - expected_TV).norm(dim=-1) / expected_TV.norm(dim=-1)
    return bool(relative_distance_T.median() <= tolerance)
