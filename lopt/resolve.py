"""Resolves the settings that a configuration leaves to the machine: precision, data revision and model revision."""

from lopt import backbones
from lopt.config import TrialConfig
from lopt.data import data_revision


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
    """Return "bf16" if the hardware computes in it (CUDA from Ampere, x86 with AMX or AVX512-BF16), else "fp32"."""
    import torch

    if torch.cuda.is_available():
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp32"
    support_checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16" if any(is_supported() for is_supported in support_checks if is_supported is not None) else "fp32"
