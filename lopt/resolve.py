"""Resolves the settings that a configuration leaves to the machine: precision, data revision and model revision."""

from pathlib import Path

from lopt import backbones
from lopt.config import TrialConfig
from lopt.data import data_revision
from lopt.device import has_gpu


def resolve(config: TrialConfig) -> TrialConfig:
    """Return the configuration with precision, data revision and model revision filled in. Only then is its key final.

    Raises:
        ValueError: the data or the weights cannot be loaded.
    """
    precision = default_precision() if config.precision == "auto" else config.precision
    return config.replace(
        precision=precision,
        data_revision=config.data_revision or data_revision(config.task),
        model_revision=config.model_revision or backbones.model_revision(config.backbone),
    )


def default_precision() -> str:
    """Return "bf16" if the hardware multiplies faster in it, else "fp32".

    That is CUDA from Ampere on, x86 with AMX, and x86 with AVX512-BF16 unless the processor is Intel's. An Intel Xeon
    with AVX512-BF16 and without AMX multiplied in bf16 at half the speed of fp32, and an AMD EPYC at 2.5 times the
    speed (LOG.md).
    """
    import torch

    if has_gpu():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"

    def supports(name: str) -> bool:
        is_supported = getattr(torch.cpu, name, None)
        return is_supported is not None and bool(is_supported())

    has_fast_avx512 = supports("_is_avx512_bf16_supported") and not _is_intel()
    return "bf16" if supports("_is_amx_tile_supported") or has_fast_avx512 else "fp32"


def _is_intel() -> bool:
    """Return whether this is a Linux machine with a processor of Intel."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
