"""Export of a trained prompt, or of LoRA's weights, as an adapter that PEFT's `PeftModel.from_pretrained` opens."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lopt import methods
from lopt.artifact import Prompt
from lopt.errors import import_optional
from lopt.model_card import find_base_model, model_card

_WEIGHTS_FILE, _CARD_FILE = "adapter_model.safetensors", "README.md"
_ADAPTER_NAME = "default"  # PEFT's name for an adapter without a name; the files do not contain it


def export_to_peft(prompt: Prompt, folder: str | Path) -> Path:
    """Write adapter_config.json, adapter_model.safetensors and a model card to `folder`, and return the folder.

    A prompt of any method becomes a PROMPT_TUNING adapter, which holds the matrix X. LoRA becomes a LORA adapter. The
    base model is loaded to check that its weights are those of training, but it is not written. The adapter calls the
    base model by its name on the hub, or by the name of its folder without the path, so that others can use it.

    Args:
        folder: an empty or new folder.

    Raises:
        ValueError: PEFT has no adapter for this method or placement, the base model is not available, `folder` is not
            empty, or peft is not installed.
    """
    folder = Path(folder)
    _check_exportable(prompt)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} {'is not empty' if folder.is_dir() else 'is a file'}; give a new folder")
    peft = import_optional("peft", "export to PEFT needs")
    model = prompt.backbone.model
    if not model.name_or_path:
        raise ValueError(
            f"backbone {prompt.config.backbone} is made in memory, and PEFT loads a base model from a folder or the "
            "hub: predict with load_prompt"
        )
    adapter_config, tensors = _make_adapter(peft, prompt, model)
    base_model = find_base_model(prompt.config)
    adapter_config.base_model_name_or_path = base_model.name
    card = model_card(prompt, base_model)
    folder.mkdir(parents=True, exist_ok=True)
    adapter_config.save_pretrained(str(folder))
    save_file(tensors, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / _CARD_FILE).write_text(card, encoding="utf-8")
    return folder


def _check_exportable(prompt: Prompt) -> None:
    """Raise ValueError if none of PEFT's adapters can express what was trained."""
    method, soft_prompt = prompt.config.method, prompt.soft_prompt
    if soft_prompt is None and not methods.get(method).has_adapter:
        raise ValueError(
            f"{method} changes the model's own weights, and PEFT's adapters only add to them: save the whole model "
            "with load_prompt(DIR).backbone.model.save_pretrained(OUT)"
        )
    if soft_prompt is not None and soft_prompt.update is not None:
        raise ValueError(
            f"{method} also changes the text's own embeddings, and PEFT's prompt tuning only puts a prompt before "
            "them: predict with load_prompt, or train prompt_tuning, lopt1, lopt2, ulpt or lora"
        )
    if soft_prompt is not None and not soft_prompt.placement.is_in_peft:
        raise ValueError(
            f"this prompt is a {soft_prompt.placement.name}, and PEFT's prompt tuning puts it before the text: "
            "predict with load_prompt, or train with placement=prefix"
        )


def _make_adapter(peft: Any, prompt: Prompt, model: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return PEFT's configuration of the adapter, and its float32 tensors by the names that PEFT gives them.

    PEFT wraps a skeleton of the model whose weights take no memory, so the base model is not copied.
    """
    with torch.device("meta"):
        skeleton = type(model)(copy.deepcopy(model.config))
    task_type = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    if prompt.soft_prompt is not None:
        adapter_config = peft.PromptTuningConfig(
            task_type=task_type,
            num_virtual_tokens=prompt.soft_prompt.length,
            # Without `token_dim` PEFT would take the hidden size, but OPT's embeddings may be narrower.
            token_dim=prompt.soft_prompt.prompt.shape[1],
            # By default PEFT would double the prompt of an encoder-decoder, and put one half into the decoder.
            num_transformer_submodules=1,
            # PEFT does not use these two numbers here, but requires them, and finds them by itself in some models only.
            num_layers=getattr(model.config, "num_hidden_layers", 1),
            num_attention_heads=getattr(model.config, "num_attention_heads", 1),
        )
    else:
        adapter_config = methods.get(prompt.config.method).adapter_config(prompt.config, skeleton)
        adapter_config.task_type = task_type
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for GPT-2's Conv1D, PEFT warns that it has set fan_in_fan_out
        wrapped_skeleton = peft.get_peft_model(skeleton, adapter_config, adapter_name=_ADAPTER_NAME)
    state_dict = None
    if prompt.soft_prompt is not None:
        prompt_PH = prompt.soft_prompt.prompt.detach().float().cpu()
        embedding = wrapped_skeleton.prompt_encoder[_ADAPTER_NAME].embedding
        embedding.weight = torch.nn.Parameter(prompt_PH, requires_grad=False)
    else:
        state_dict = {f"base_model.model.{name}": tensor.detach().float() for name, tensor in prompt.factors.items()}
    tensors = peft.get_peft_model_state_dict(
        wrapped_skeleton, state_dict=state_dict, adapter_name=_ADAPTER_NAME, save_embedding_layers=False
    )
    adapter_config.inference_mode = True
    if getattr(adapter_config, "target_modules", None):
        # Sorted because a set has no order, and equal exports should give equal files.
        adapter_config.target_modules = sorted(adapter_config.target_modules)
    return adapter_config, {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
