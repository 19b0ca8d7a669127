"""The choice of the linear layers that LoRA adapts: PEFT's choice for the model type, or else attention's query and
value projections."""

import warnings
from collections import Counter
from typing import Any

from lopt.errors import first_line_of_error, import_optional

Projections = tuple[tuple[int, int, int], ...]  # (number of projections, fan_in, fan_out), one entry for each shape

# Names of the query and value projections: two layers, or one layer that computes both. Every entry whose layers are in
# a model is taken, because a model may have several kinds of attention.
_QUERY_AND_VALUE_NAMES = (
    ("q_proj", "v_proj"), ("query", "value"), ("q", "v"), ("q_lin", "v_lin"), ("Wq", "Wv"),
    ("query_proj", "value_proj"), ("qkv_proj",), ("query_key_value",), ("Wqkv",), ("c_attn",),
    ("in_proj_qkv",), ("in_proj_qkvz",),
    ("q_b_proj", "kv_b_proj"), ("q_proj", "kv_b_proj"),  # from a latent vector to queries, and to keys and values
)  # fmt: skip


def target_names(model: Any, targets: str | None = None) -> list[str]:
    """Return the names of the modules that LoRA adapts, sorted. A name is the last part of the module's full name.

    Args:
        targets: names joined by "+". None for PEFT's choice for the model type, or for attention's query and value
            projections if PEFT does not know the type.

    Raises:
        ValueError: the model has no linear layer of that name, or peft is not installed.
    """
    peft_names_by_type = import_optional("peft.utils", "LoRA needs").TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    model_type = model.config.model_type
    linear_layer_names = _linear_layer_names(model)
    valid_names = ", ".join(sorted(linear_layer_names)) or "none"
    if targets is not None:
        names = targets.split("+")
        for name in names:
            if name not in linear_layer_names:
                raise ValueError(
                    f"`targets` names {name!r}, but a {model_type} model has no linear layer of that name; "
                    f"valid: {valid_names}"
                )
        return sorted(set(names))
    names = [name for name in peft_names_by_type.get(model_type) or () if name in linear_layer_names]
    if not names:
        entries = [entry for entry in _QUERY_AND_VALUE_NAMES if linear_layer_names.issuperset(entry)]
        names = [name for entry in entries for name in entry]
    if not names:
        raise ValueError(
            f"LoRA adapts attention's query and value projections, and a {model_type} model has no linear layer for "
            f"them; name other layers with --set targets=NAME+NAME; valid: {valid_names}"
        )
    return sorted(set(names))


def adapted_projections(model: Any, targets: str | None = None) -> Projections:
    """Return (number of projections, fan_in, fan_out) for each shape of projection that LoRA adapts.

    PEFT decides which matrices a name stands for: one name may stand for the matrices of all experts. This function
    adds adapters to the model. The model may be on PyTorch's "meta" device, where weights take no memory.
    """
    from peft import LoraConfig

    # At rank 1, A has fan_in elements and B has fan_out elements.
    adapters = inject_adapters(model, LoraConfig(r=1, target_modules=target_names(model, targets)))
    names_of_A = [name for name in adapters if ".lora_A." in name]
    count_by_shape = Counter(
        (adapters[name].numel(), adapters[name.replace(".lora_A.", ".lora_B.")].numel()) for name in names_of_A
    )
    return tuple((count, fan_in, fan_out) for (fan_in, fan_out), count in count_by_shape.items())


def inject_adapters(model: Any, config: Any) -> dict[str, Any]:
    """Put the adapters of a `peft.LoraConfig` into a model and return their tensors by name.

    Raises:
        ValueError: PEFT cannot adapt one of the modules.
    """
    from peft import inject_adapter_in_model

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for GPT-2's Conv1D, PEFT warns that it sets fan_in_fan_out itself
            inject_adapter_in_model(config, model)
    except ValueError as error:
        raise ValueError(
            f"PEFT cannot adapt {'+'.join(sorted(config.target_modules))} of a {model.config.model_type} model "
            f"({first_line_of_error(error)}); name other modules with `targets`"
        ) from None
    return {name: tensor for name, tensor in model.named_parameters() if ".lora_" in name}


def _linear_layer_names(model: Any) -> set[str]:
    """Return the last part of the name of every linear layer except the output head and routers.

    A router chooses the experts of a token. Some routers are linear layers that return more than one tensor, and PEFT
    cannot add to such an output.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    linear_layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    return {
        name.rsplit(".", 1)[-1] for name, layer in linear_layers.items() if not type(layer).__name__.endswith("Router")
    }
