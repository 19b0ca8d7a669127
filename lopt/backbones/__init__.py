"""Backbones: frozen language models behind one small interface.

A backbone plugin gives the facts of its models (width, number of layers, …) without their weights, so that planning
works offline. It loads a model only when `load` is called. A plugin can import everything that it needs from this
package. Importing this package does not import torch.
"""

from functools import lru_cache

from lopt.backbones._adapted import inject_adapters, target_names
from lopt.backbones._checks import refuse_unfit_model
from lopt.backbones._configs import Facts, window_of
from lopt.backbones._loading import load_from_source, revision_of, source_of, torch_dtype
from lopt.backbones._model import Backbone
from lopt.backbones._names import BackboneSpec, facts, local_folder, names, spec_of
from lopt.backbones._vocabulary import Vocabulary
from lopt.device import default_device


def model_revision(name: str) -> str:
    """Return a text that identifies the weights of backbone `name`. It is part of a trial's key.

    Raises:
        ValueError: the weights are not available.
    """
    return spec_of(name).revision(name)


@lru_cache(maxsize=2)
def load(name: str, precision: str) -> Backbone:
    """Return the backbone, frozen and in evaluation mode. A process has one copy for each name and precision.

    Args:
        precision: "bf16", "fp32" or "fp64".

    Raises:
        ValueError: the weights are not available. The message says what to do.
    """
    return spec_of(name).load(name, precision)
