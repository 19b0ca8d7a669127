"""What a backbone's name stands for: known facts, a folder, or a model on the hub."""

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from lopt import registry
from lopt.backbones._configs import Facts, facts_of
from lopt.backbones._model import Backbone
from lopt.errors import reason_of
from lopt.files import refuse_pointer
from lopt.registry import nearest


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


def spec_of(name: str) -> BackboneSpec:
    """The plugin that loads a name: the one that knows it, or the one for its config's kind."""
    for spec in registry.plugins("lopt.backbones").values():
        if name in spec.known:
            return spec
    kind = "seq2seq" if _facts_from_config(name).seq2seq else "causal"
    return registry.find("lopt.backbones", kind, "backbone")


def local_folder(name: str) -> Path | None:
    """The folder that holds `name`: the name itself, or below `LOPT_MODEL_DIR`; None means the hub. ValueError
    when LOPT_MODEL_DIR is no folder, or the name looks like a path and is none."""
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
    """Facts of any backbone: known ones offline, others from their config (local folder, cache or hub). ValueError when
    nothing is known and no config can be read."""
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
        raise ValueError(
            f"backbone {name!r} is neither known ({', '.join(names())}) nor a folder with a config.json, and the hub "
            f"gave none ({reason_of(error)}).{nearest(name, names())}"
        ) from None
    return facts_of(name, config)
