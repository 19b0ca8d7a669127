"""Which of a model's projections LoRA adapts: PEFT's choice for the family, or attention's queries and values."""

import warnings
from collections import Counter
from typing import Any

from lopt.errors import imported, reason_of

Projections = tuple[tuple[int, int, int], ...]  # how many, fan_in, fan_out

# Names of the projections to queries and values, apart or in one matrix. A model may have several kinds of attention.
_QUERY_AND_VALUE = (
    ("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"), ("Wq", "Wv"),
    ("query_proj", "value_proj"), ("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",),
    ("in_proj_qkv",), ("in_proj_qkvz",),
    ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"),  # from a latent vector to queries, and to keys and values
)  # fmt: skip


def target_names(model: Any, targets: str | None = None) -> list[str]:
    """Last names of the modules that LoRA adapts, sorted; ValueError when the model has no module of such a name, or
    peft is not installed.

    targets: names joined by "+"; None for PEFT's own choice, or where it has none, attention's queries and values.
    """
    choices = imported("peft.utils", "LoRA needs").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    kind = model.config.model_type
    present = _linear_names(model)
    valid = ", ".join(sorted(present)) or "none"
    if targets is not None:
        names = targets.split("+")
        for name in names:
            if name not in present:
                raise ValueError(f"targets names {name!r}, which a {kind} model has not; valid: {valid}")
        return sorted(set(names))
    names = [name for name in choices.get(kind) or () if name in present]
    if not names:
        names = [name for group in _QUERY_AND_VALUE if present.issuperset(group) for name in group]
    if not names:
        raise ValueError(
            f"LoRA adapts attention's queries and values, and a {kind} model has no linear projection to them; name "
            f"others with targets (--set targets=NAME+NAME); valid: {valid}"
        )
    return sorted(set(names))


def adapted_projections(model: Any, targets: str | None = None) -> Projections:
    """(how many, fan_in, fan_out) of what LoRA adapts, one for each of their shapes: what PEFT makes of the names,
    which may stand for the matrices of all experts in one. Changes the model, which may be without memory for its
    weights.
    """
    from peft import LoraConfig

    adapters = inject(model, LoraConfig(r=1, target_modules=target_names(model, targets)))
    inward = {name.replace(".lora_A.", ".lora_B."): tensor for name, tensor in adapters.items() if ".lora_A." in name}
    shapes = Counter((tensor.numel(), adapters[name].numel()) for name, tensor in inward.items())
    return tuple((count, *fans) for fans, count in shapes.items())


def inject(model: Any, config: Any) -> dict[str, Any]:
    """Puts the adapters of a `peft.LoraConfig` into a model; these by name. ValueError when PEFT cannot adapt one of
    the modules."""
    from peft import inject_adapter_in_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GPT-2's Conv1D: PEFT says that it sets fan_in_fan_out by itself
            inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ValueError(
            f"PEFT cannot adapt {'+'.join(sorted(config.target_modules))} of a {model.config.model_type} model "
            f"({reason_of(error)}); name other modules with targets"
        ) from None
    return {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}


def _linear_names(model: Any) -> set[str]:
    """The last part of the name of every linear layer but the head. Routers of some experts are linear layers that give
    more than one tensor, which PEFT cannot add to."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return {name.rsplit(".", 1)[-1] for name, module in linear if not type(module).__name__.endswith("Router")}
