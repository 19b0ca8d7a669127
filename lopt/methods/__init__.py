"""Methods: what is trained, and how it reaches the model.

Prompt methods (`PromptMethod`) train matrices from which a soft prompt is made; the backbone is shared and never
changes. Weight methods (`WeightMethod`) train tensors inside a copy of the backbone. All that a method of one's own
needs is imported from here. Importing this package imports no torch: planning counts parameters without it.
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
    Tuned,
    choice_option,
    init_option,
    real_option,
    seed_option,
)
from lopt.methods._prompt import LONGEST, MOST_CUSTOMARY_RANK, Factor, PromptMethod, customary_length
from lopt.methods._weights import WeightMethod
from lopt.settings import TrialSettings


def get(name: object) -> Method:
    """The method named `name`; ValueError lists the valid ones."""
    return registry.find("lopt.methods", name, "method")


def names() -> list[str]:
    return list(registry.plugins("lopt.methods"))


def in_order() -> list[Method]:
    """All methods in the order of the spaces."""
    return sorted(registry.plugins("lopt.methods").values(), key=lambda method: (method.place, method.name))


def options() -> set[str]:
    """Names of all methods' options."""
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
    """Number of trainable parameters at n, r and d, counted without weights.

    Args:
        method: name of the method.
        length: prompt length n, in virtual tokens. rank: rank r, where the method has one.
        width: embedding width d; or backbone: a name or folder whose facts are known, which LoRA and fine-tuning need.
            With both, the backbone's own width counts.
        options: the method's own, such as update_tokens of DePT.

    Raises:
        ValueError: an unknown method or option; a length, rank or width that is missing, superfluous or out of range;
            neither width nor backbone; a backbone of which nothing is known.

    >>> count_parameters(method="lopt1", length=10, rank=2, width=1280)
    2580
    """
    for name, value in (("length", length), ("width", width), ("rank", rank)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
    chosen = get(method)
    filled = chosen.check(length=length, rank=rank, options=options)
    model = backbones.facts(backbone) if backbone else None
    width = model.width if model else width
    if width is None:
        raise ValueError("give width, the embedding width d, or backbone, a model's name")
    return chosen.counts(Shape(width=width, length=length, rank=rank, options=filled, model=model)).trainable


def shape_of(config: TrialSettings, model: Facts) -> Shape:
    """The shape of a trial on a backbone of these facts."""
    return Shape(width=model.width, length=config.length, rank=config.rank, options=config.options, model=model)


def counts_of(config: TrialSettings) -> Counts:
    """Parameter counts of a trial, from its backbone's facts."""
    return get(config.method).counts(shape_of(config, backbones.facts(config.backbone)))
