"""Backbones: frozen language models behind one small interface.

A plugin knows the facts of its models (width, layers, …) without weights, so that planning works offline, and loads
one when asked. Importing this package imports no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lopt import registry
from lopt.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor, device, dtype
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model without its weights: width d, layers, vocabulary size, window in tokens, licence."""

    width: int
    layers: int
    vocabulary: int
    window: int
    licence: str = "unknown"


class Backbone(Protocol):
    """A loaded, frozen model. Hashable by identity, so that tokenised data can be cached beside it."""

    name: str
    revision: str
    width: int
    window: int
    pad_id: int
    device: device
    dtype: dtype
    tokenizer: PreTrainedTokenizerBase

    def __hash__(self) -> int: ...

    def label_ids(self, words: Sequence[str]) -> Tensor:
        """First token of each label word, `[C]`; ValueError when two words share it."""
        ...

    def label_logits(self, prompt: Tensor | None, ids_BT: Tensor, lengths_B: Tensor, label_ids_C: Tensor) -> Tensor:
        """Logits of the label words at the label position, float32 or wider, `[B, C]`.

        prompt: `[P, H]`, one a row `[B, P, H]`, or None for none. Padding is on the right and changes nothing.
        """
        ...

    def checksum(self) -> str:
        """Hash of all weights: equal before and after training."""
        ...


class BackboneSpec(Protocol):
    """A plugin: names with known facts, and a loader."""

    name: str
    known: Mapping[str, Facts]

    def load(self, name: str, precision: str) -> Backbone:
        """Loads `name`, on the GPU when there is one."""
        ...

    def revision(self, name: str) -> str:
        """What identifies the weights, without loading them."""
        ...


def names() -> list[str]:
    """All names with known facts."""
    return sorted(name for spec in registry.plugins("lopt.backbones").values() for name in spec.known)


def _spec(name: str) -> BackboneSpec:
    for spec in registry.plugins("lopt.backbones").values():
        if name in spec.known:
            return spec
    return registry.find("lopt.backbones", "causal", "backbone")


def local_folder(name: str) -> Path | None:
    """The folder that holds `name`: the name itself, or below `LOPT_MODEL_DIR`; None means the hub.

    Raises:
        ValueError: LOPT_MODEL_DIR is no folder; the name looks like a path and is none.
    """
    mirror = os.environ.get("LOPT_MODEL_DIR")
    if mirror:
        if not Path(mirror).is_dir():
            raise ValueError(f"LOPT_MODEL_DIR is {mirror!r}, which is no folder; it holds <model name>/config.json")
        if (Path(mirror) / name / "config.json").is_file():
            return Path(mirror) / name
    if (Path(name).expanduser() / "config.json").is_file():
        return Path(name).expanduser()
    if name.startswith((".", "/", "~")):
        raise ValueError(f"backbone {name!r} is no folder with a config.json")
    return None


def facts(name: str) -> Facts:
    """Facts of any backbone: known ones offline, others from their config (local folder, cache or hub).

    Raises:
        ValueError: nothing is known and no config can be read.
    """
    spec = _spec(name)
    if name in spec.known:
        return spec.known[name]
    return _facts_from_config(name)


@lru_cache(maxsize=32)
def _facts_from_config(name: str) -> Facts:
    folder = local_folder(name)
    try:
        if folder is not None:
            path = folder / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "config.json"))
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"backbone {name!r}: its config.json is damaged ({error})") from None
    except Exception as error:  # the hub's client raises many kinds; all mean the same here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(
            f"backbone {name!r} is neither known ({', '.join(names())}) nor a folder with a config.json, and the hub "
            f"gave none ({reason}).{nearest(name, names())}"
        ) from None

    def first(*keys: str, default: int | None = None) -> int:
        for key in keys:
            if isinstance(config.get(key), int):
                return config[key]
        if default is not None:
            return default
        raise ValueError(f"backbone {name!r}: its config.json has none of {', '.join(keys)}")

    return Facts(
        width=first("hidden_size", "n_embd", "d_model"),
        layers=first("num_hidden_layers", "n_layer", "num_layers"),
        vocabulary=first("vocab_size"),
        window=first("max_position_embeddings", "n_positions", "n_ctx", default=2048),
    )


def model_revision(name: str) -> str:
    """What identifies the weights behind `name`; part of a trial's key. ValueError when they cannot be had."""
    return _spec(name).revision(name)


@lru_cache(maxsize=2)
def load(name: str, precision: str) -> Backbone:
    """The backbone, frozen and in evaluation mode; one copy a process for each name and precision.

    Args:
        precision: "bf16", "fp32" or "fp64".

    Raises:
        ValueError: weights that cannot be had, with how to mend it.
    """
    return _spec(name).load(name, precision)
