"""Which of a model's projections LoRA adapts: PEFT's choice for the family, or attention's queries and values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from lopt.errors import reason_of

# Names of the projections to queries and values, apart or in one matrix. A model may have several kinds of attention.
_QUERY_AND_VALUE = (
    ("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"), ("Wq", "Wv"),
    ("query_proj", "value_proj"), ("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",),
    ("in_proj_qkv",), ("in_proj_qkvz",),
    ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"),  # from a latent vector to queries, and to keys and values
)  # fmt: skip


def target_names(model: Any, targets: str | None = None) -> list[str]:
    """Last names of the modules that LoRA adapts, sorted.

    Args:
        targets: names joined by "+"; None for PEFT's own choice, or where it has none, attention's queries and values.

    Raises:
        ValueError: the model has no module of such a name; peft is not installed.
    """
    try:
        from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as choices
    except ImportError:
        raise ValueError("LoRA needs the package peft: pip install peft") from None

    kind = model.config.model_type
    present = {name for name, _ in _linear_modules(model)}
    if targets is not None:
        names = targets.split("+")
        for name in names:
            if name not in present:
                raise ValueError(f"targets names {name!r}, which a {kind} model has not; valid: {_listed(present)}")
        return sorted(set(names))
    names = [name for name in choices.get(kind) or () if name in present]
    if not names:
        names = [name for group in _QUERY_AND_VALUE if present.issuperset(group) for name in group]
    if not names:
        raise ValueError(
            f"LoRA adapts attention's queries and values, and a {kind} model has no linear projection to them; name "
            f"others with targets (--set targets=NAME+NAME); valid: {_listed(present)}"
        )
    return sorted(set(names))


def adapted_projections(model: Any, targets: str | None = None) -> tuple[tuple[int, int, int], ...]:
    """(how many, fan_in, fan_out) of what LoRA adapts, one for each of their shapes: what PEFT makes of the names,
    which may stand for the matrices of all experts in one. Changes the model, which may be without memory for its
    weights.
    """
    from peft import LoraConfig

    shapes: dict[tuple[int, int], int] = {}
    adapters = inject(model, LoraConfig(r=1, target_modules=target_names(model, targets)))
    for name, tensor in adapters.items():
        if ".lora_A." in name:
            fans = tensor.numel(), adapters[name.replace(".lora_A.", ".lora_B.")].numel()
            shapes[fans] = shapes.get(fans, 0) + 1
    return tuple((count, *fans) for fans, count in shapes.items())


def inject(model: Any, config: Any) -> dict[str, Any]:
    """Puts the adapters of a `peft.LoraConfig` into a model; these by name.

    Raises:
        ValueError: PEFT cannot adapt one of the modules.
    """
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


def _linear_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Every linear layer but the head, by the last part of its name. Routers of some experts are linear layers that
    give more than one tensor, which PEFT cannot add to."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        is_router = type(module).__name__.endswith("Router")
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and not is_router:
            yield name.rsplit(".", 1)[-1], module


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
