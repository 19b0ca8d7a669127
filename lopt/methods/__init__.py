"""Methods: what is trained, and how it reaches the model.

Prompt methods (`PromptMethod`) train matrices from which a soft prompt is made. The backbone is shared and never
changes. Weight methods (`WeightMethod`) train tensors inside a copy of the backbone. A method plugin can import
everything that it needs from this package. Importing this package does not import torch, because a plan counts
parameters without it.
"""

from typing import Any

from lopt import backbones, registry
from lopt.backbones import Facts
from lopt.methods._base import (
    DEFAULT_LENGTH,
    Counts,
    Method,
    Recipe,
    Shape,
    TrainableModel,
    check_choice_option,
    check_init_option,
    check_real_option,
    check_seed_option,
)
from lopt.methods._prompt import LARGEST_USUAL_RANK, LONGEST, Factor, PromptMethod, usual_length
from lopt.methods._weights import WeightMethod
from lopt.settings import TrialSettings


def get(name: object) -> Method:
    """Return the method named `name`. The ValueError for an unknown name lists the valid names."""
    return registry.find("lopt.methods", name, "method")


def names() -> list[str]:
    """Return the names of all methods."""
    return list(registry.plugins("lopt.methods"))


def in_order() -> list[Method]:
    """Return all methods in the order in which spaces and reports list them."""
    return sorted(registry.plugins("lopt.methods").values(), key=lambda method: (method.sort_order, method.name))


def options() -> set[str]:
    """Return the names of all methods' options."""
    return {name for method in registry.plugins("lopt.methods").values() for name in method.OPTIONS}


def count_parameters(
    *,
    method: str,
    length: int | None = None,
    rank: int | None = None,
    width: int | None = None,
    backbone: str | None = None,
    **options: Any,
) -> int:
    """Return the number of trainable parameters, without loading weights.

    Args:
        method: name of the method.
        length: prompt length n, in virtual tokens.
        rank: rank r, if the method has one.
        width: embedding width d.
        backbone: a name or folder whose facts are known. LoRA and fine-tuning need it. Its width replaces `width`.
        options: the method's own options, such as update_tokens of DePT.

    Raises:
        ValueError: the method or an option is unknown; a length, rank or width is missing, not needed or out of range;
            both width and backbone are missing; or the facts of the backbone are not known.

    >>> count_parameters(method="lopt1", length=10, rank=2, width=1280)
    2580
    """
    for name, value in (("length", length), ("width", width), ("rank", rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
    method_spec = get(method)
    all_options = method_spec.check(length=length, rank=rank, options=options)
    facts = backbones.facts(backbone) if backbone else None
    width = facts.width if facts else width
    if width is None:
        raise ValueError("give `width` (the embedding width d) or `backbone` (a model's name)")
    return method_spec.counts(Shape(width=width, length=length, rank=rank, options=all_options, model=facts)).trainable


def shape_of(config: TrialSettings, facts: Facts) -> Shape:
    """Return the shape of a trial on a backbone with these facts."""
    return Shape(width=facts.width, length=config.length, rank=config.rank, options=config.options, model=facts)


def counts_of(config: TrialSettings) -> Counts:
    """Return the parameter counts of a trial, from its backbone's facts."""
    return get(config.method).counts(shape_of(config, backbones.facts(config.backbone)))
