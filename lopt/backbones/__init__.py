"""Backbones: frozen language models behind one small interface.

A plugin knows the facts of its models (width, layers, …) without weights, so that planning works offline, and loads
one when asked. Importing this package imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lopt import registry
from lopt.errors import reason_of
from lopt.files import refuse_pointer
from lopt.registry import nearest

if TYPE_CHECKING:
    from torch import Tensor, device, dtype
    from transformers import PreTrainedTokenizerBase

    from lopt.methods._initial import Vocabulary
    from lopt.soft_prompt import PackedPrompts, SoftPrompt


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a model without its weights: width d, layers, vocabulary size, window in tokens, licence.

    hub: its name on the model hub, where it has another name here. exact: how others get the very weights, in Markdown,
    where those of the hub differ. seq2seq: whether it has an encoder and a decoder. size, projections: number of
    weights, and (how many, fan_in, fan_out) of the attention projections that LoRA adapts; where they are None, `count`
    and `project` find them by making the model without memory.
    """

    width: int
    layers: int
    vocabulary: int
    window: int
    licence: str = "unknown"
    hub: str | None = None
    exact: str | None = None
    seq2seq: bool = False
    size: int | None = None
    projections: tuple[tuple[int, int, int], ...] | None = None
    count: Callable[[], int] | None = field(default=None, compare=False, repr=False)
    project: Callable[[str | None], tuple[tuple[int, int, int], ...]] | None = field(
        default=None, compare=False, repr=False
    )

    @cached_property
    def parameters(self) -> int:
        """Number of weights, embeddings included and tied ones once.

        Raises:
            ValueError: it is not known, or the model cannot be made of its config.
        """
        if self.size is None and self.count is None:
            raise ValueError("the number of this model's weights is not known")
        return self.size if self.size is not None else self.count()  # type: ignore[misc]  # one of the two is there

    def adapted(self, targets: str | None = None) -> tuple[tuple[int, int, int], ...]:
        """(how many, fan_in, fan_out) of the projections that LoRA adapts, one for each of their shapes.

        Args:
            targets: names of modules, joined by "+"; None for the default (`lopt.methods.lora`).

        Raises:
            ValueError: they are not known, the model has none of such a name, or PEFT is missing.
        """
        if targets is None and self.projections is not None:
            return self.projections
        if self.project is None:
            raise ValueError(
                "targets can be counted where a model's config.json is read, and this model is known by name: give "
                "backbone as a folder, or leave targets out"
            )
        return self.project(targets)


class Backbone(Protocol):
    """A loaded, frozen model."""

    name: str
    revision: str
    width: int
    window: int
    pad_id: int
    device: device
    dtype: dtype
    tokenizer: PreTrainedTokenizerBase
    model: Any
    autocast: Any  # None, or the type in which a copy whose weights are trained computes

    @property
    def side_by_side(self) -> bool:
        """Whether several threads may run passes at the same time."""
        ...

    @property
    def pads_rows(self) -> bool:
        """Whether all rows of a pass are padded to its longest; else a pass takes rows of any lengths."""
        ...

    def complete(self, template: str) -> str:
        """The template as this kind of model reads it: `{mask}`, where the label is read, made literal."""
        ...

    def label_ids(self, words: Sequence[str]) -> Tensor:
        """First token of each label word, `[C]`; ValueError when two words share it."""
        ...

    def label_logits(
        self, soft: SoftPrompt | PackedPrompts | None, ids_BT: Tensor, lengths_B: Tensor, label_ids_C: Tensor
    ) -> Tensor:
        """Logits of the label words at the label position, float32 or wider, `[B, C]`.

        soft: what stands at the input, or None for nothing. Padding is on the right and changes nothing.
        """
        ...

    def row_tokens(self, soft: SoftPrompt, length: int) -> int:
        """Tokens that a row of so long a text takes in a pass of several rows, for the size of passes."""
        ...

    def unread(self, soft: SoftPrompt, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Of texts (token ids) that such a prompt leaves as they are, those of which something would be kept and is not
        there yet."""
        ...

    def read(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Computes what is kept of unread texts, for the passes that meet them; in several threads where passes may
        run side by side."""
        ...

    def vocabulary(self, label_words: tuple[str, ...]) -> Vocabulary:
        """Token embeddings, for initial values."""
        ...

    def copy(self) -> Backbone:
        """One whose weights may be changed; the tokenizer is shared."""
        ...

    def with_dropout(self, rate: float) -> Backbone:
        """One for training steps alone, which shares the weights, with every dropout of the model on, at this rate in
        (0, 1); what is left out is drawn from torch's generators. ValueError when the model has no dropout."""
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
    kind = "seq2seq" if _facts_from_config(name).seq2seq else "causal"
    return registry.find("lopt.backbones", kind, "backbone")


def local_folder(name: str) -> Path | None:
    """The folder that holds `name`: the name itself, or below `LOPT_MODEL_DIR`; None means the hub.

    Raises:
        ValueError: LOPT_MODEL_DIR is no folder; the name looks like a path and is none.
    """
    mirror = os.environ.get("LOPT_MODEL_DIR")
    if mirror:
        if not Path(mirror).is_dir():
            raise ValueError(f"LOPT_MODEL_DIR is {mirror!r}, which is no folder; it holds <model name>/config.json")
        if os.path.isfile(Path(mirror) / name / "config.json"):
            return (Path(mirror) / name).absolute()
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):  # unlike Path's own, it bears a name that cannot be a path
        return folder.absolute()
    if name.startswith((".", "/", "~")):
        raise ValueError(f"backbone {name!r} is no folder with a config.json")
    return None


def facts(name: str) -> Facts:
    """Facts of any backbone: known ones offline, others from their config (local folder, cache or hub).

    Raises:
        ValueError: nothing is known and no config can be read.
    """
    for spec in registry.plugins("lopt.backbones").values():
        if name in spec.known:
            known = spec.known[name]
            if name == spec.name or local_folder(name) is None:
                return known
            # A mirror may hold another model under the name: what is counted is what its config.json says.
            return dataclasses.replace(_facts_from_config(name), licence=known.licence, hub=known.hub)
    return _facts_from_config(name)


def _facts_from_config(name: str) -> Facts:
    return _read_facts(name, local_folder(name))


@lru_cache(maxsize=32)
def _read_facts(name: str, folder: Path | None) -> Facts:
    if folder is not None:
        refuse_pointer(folder / "config.json")
    try:
        if folder is not None:
            path = folder / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "config.json"))
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"backbone {name!r}: its config.json is damaged ({error})") from None
    except Exception as error:  # the hub's client raises many kinds; all mean the same here
        reason = reason_of(error)
        raise ValueError(
            f"backbone {name!r} is neither known ({', '.join(names())}) nor a folder with a config.json, and the hub "
            f"gave none ({reason}).{nearest(name, names())}"
        ) from None

    from lopt.backbones._configs import facts_of

    return facts_of(name, config)


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
