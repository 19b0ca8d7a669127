"""Prepare what the trials of a sweep need, on the device where they would train."""

import math
from collections.abc import Sequence
from typing import Any

from lopt import methods
from lopt.config import TrialConfig
from lopt.errors import to_one_line
from sweeps.work import packing
from sweeps.work.process import set_threads


def prepare(
    configs: list[dict[str, Any]],
    baseline_indices: Sequence[int] = (),
    threads: int | None = None,
    trials_per_device: float = math.inf,
) -> dict[str, Any]:
    """Fetch data and weights, and resolve precision and revisions, on the device where trials would run.

    The weights, label words, data and lengths of every configuration are checked for faults that would make all its
    trials fail.

    Args:
        configs: The configurations, as JSON.
        baseline_indices: Indices of the configurations whose zero-shot baseline is scored.
        trials_per_device: How many trials each device will train; infinity if this is not known.

    Returns:
        If a check fails, only "error": what is wrong, in one line. Otherwise these entries:
        "configs": the resolved configurations;
        "pack_size": how many trials should share a backbone here;
        "solo_count": how many trials that train alone should run side by side on a GPU here;
        "baselines": the zero-shot baselines;
        "problems": the errors of baselines that could not be scored.
    """
    from lopt import backbones, data
    from lopt.evaluation import measure_baselines
    from lopt.pass_runner import max_pass_tokens
    from lopt.resolve import resolve

    set_threads(threads)
    resolved_configs: list[TrialConfig] = []
    baselines: list[dict[str, Any]] = []
    problems: list[str] = []
    step_token_counts: list[float] = []
    solo_counts: list[int] = []
    pass_tokens, memory_tokens, device_type = 0, math.inf, "cpu"
    try:
        for config_values in configs:
            config = resolve(TrialConfig.from_dict(config_values))
            method = methods.get(config.method)
            method.require()
            backbone = backbones.load(config.backbone, method.weights_precision(config.precision))
            backbone.label_ids(config.label_words or ())
            if config.dropout:
                backbone.with_dropout(config.dropout)
            task_data = data.prepare_data(config, backbone)
            resolved_configs.append(config)
            if config.shares_backbone:
                step_token_counts.append(packing.tokens_per_step(backbone, config, task_data))
                device_type = backbone.device.type
                pass_tokens = max_pass_tokens(backbone)
                fitting_tokens = packing.tokens_in_memory(backbone, task_data, config.length or 0)
                memory_tokens = min(memory_tokens, fitting_tokens)
            else:
                solo_counts.append(packing.solo_count_here(backbone))
    except (ValueError, OSError) as error:
        return {"error": to_one_line(error)}
    for index in baseline_indices:
        try:
            baselines.append(measure_baselines(resolved_configs[index]))
        except Exception as error:  # a missing baseline stops neither the trials nor the report
            problems.append(f"{type(error).__name__}: {error}")
    pack_size = 1
    if step_token_counts:
        mean_step_tokens = sum(step_token_counts) / len(step_token_counts)
        pack_size = packing.choose_pack_size(
            mean_step_tokens, pass_tokens, memory_tokens, trials_per_device, device_type=device_type
        )
    return {
        "configs": [config.to_dict() for config in resolved_configs],
        "pack_size": pack_size,
        "solo_count": min(solo_counts, default=1),
        "baselines": baselines,
        "problems": problems,
    }
