"""What a backbone's name stands for: a model with known facts, a folder, or a model on the hub."""

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from lopt import registry
from lopt.backbones._configs import Facts, facts_from_config
from lopt.backbones._model import Backbone
from lopt.errors import first_line_of_error
from lopt.files import refuse_lfs_pointer
from lopt.registry import did_you_mean


class BackboneSpec(Protocol):
    """Interface of a backbone plugin: names of models with their facts, and a loader."""

    name: str
    known: Mapping[str, Facts]

    def load(self, name: str, precision: str) -> Backbone:
        """Load the model, on the GPU if there is one."""
        ...

    def revision(self, name: str) -> str:
        """Return a text that identifies the weights, without loading them."""
        ...


def names() -> list[str]:
    """Return the names of all models with known facts."""
    return sorted(name for spec in registry.plugins("lopt.backbones").values() for name in spec.known)


def spec_of(name: str) -> BackboneSpec:
    """Return the plugin that loads a model: one that knows its name, or else "causal" or "seq2seq" by its config."""
    for spec in registry.plugins("lopt.backbones").values():
        if name in spec.known:
            return spec
    kind = "seq2seq" if _facts_from_config_file(name).seq2seq else "causal"
    return registry.find("lopt.backbones", kind, "backbone")


def local_folder(name: str) -> Path | None:
    """Return a model's folder: `name` below `LOPT_MODEL_DIR`, or `name` read as a path. None means the hub.

    Raises:
        ValueError: LOPT_MODEL_DIR is not a folder, or the name looks like a path and is not a model's folder.
    """
    model_dir = os.environ.get("LOPT_MODEL_DIR")
    if model_dir:
        if not Path(model_dir).is_dir():
            raise ValueError(
                f"LOPT_MODEL_DIR is {model_dir!r}, which is not a folder; give one that holds <model name>/config.json"
            )
        if os.path.isfile(Path(model_dir) / name / "config.json"):
            return (Path(model_dir) / name).absolute()
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):  # unlike Path.is_file, it accepts a name that cannot be a path
        return folder.absolute()
    if name.startswith((".", "/", "~")):
        raise ValueError(f"backbone {name!r} is not a folder with a config.json")
    return None


def facts(name: str) -> Facts:
    """Return the facts of any backbone. Known facts need no network. Others come from the model's config.json, in a
    folder, in the hub's cache or on the hub.

    Raises:
        ValueError: no facts are known and no config can be read.
    """
    for spec in registry.plugins("lopt.backbones").values():
        if name in spec.known:
            known_facts = spec.known[name]
            if name == spec.name or local_folder(name) is None:
                return known_facts
            # A folder below LOPT_MODEL_DIR may hold another model of this name, so its config gives the numbers.
            return dataclasses.replace(
                _facts_from_config_file(name), licence=known_facts.licence, hub_name=known_facts.hub_name
            )
    return _facts_from_config_file(name)


def _facts_from_config_file(name: str) -> Facts:
    return _read_facts(name, local_folder(name))


@lru_cache(maxsize=32)
def _read_facts(name: str, folder: Path | None) -> Facts:
    if folder is not None:
        refuse_lfs_pointer(folder / "config.json")
    try:
        if folder is not None:
            path = folder / "config.json"
        else:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "config.json"))
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"backbone {name!r}: its config.json is damaged ({error})") from None
    except Exception as error:  # the hub's client raises many kinds of errors; here they all mean the same
        raise ValueError(
            f"backbone {name!r} is neither known ({', '.join(names())}) nor a folder with a config.json, and the hub "
            f"gave no config.json ({first_line_of_error(error)}).{did_you_mean(name, names())}"
        ) from None
    return facts_from_config(name, config)
