"""Backbones: frozen language models behind one small interface.

A plugin knows the facts of its models (width, layers, …) without weights, so that planning works offline, and loads
one when asked. All that a backbone of one's own needs is imported from here. Importing this package imports no torch.
"""

from functools import lru_cache

from lopt.backbones._adapted import inject, target_names
from lopt.backbones._checks import refuse_unfit
from lopt.backbones._configs import Facts, window_of
from lopt.backbones._loading import default_device, from_source, revision_of, source_of, torch_dtype
from lopt.backbones._model import Backbone, Vocabulary
from lopt.backbones._names import BackboneSpec, facts, local_folder, names, spec_of


def model_revision(name: str) -> str:
    """What identifies the weights behind `name`; part of a trial's key. ValueError when they cannot be had."""
    return spec_of(name).revision(name)


@lru_cache(maxsize=2)
def load(name: str, precision: str) -> Backbone:
    """The backbone, frozen and in evaluation mode; one copy a process for each name and precision.

    Args:
        precision: "bf16", "fp32" or "fp64".

    Raises:
        ValueError: weights that cannot be had, with how to mend it.
    """
    return spec_of(name).load(name, precision)
