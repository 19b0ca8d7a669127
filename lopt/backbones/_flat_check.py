"""Whether a flat form may run the passes of a model: it must give what the plain form gives."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lopt.placement import PLACEMENTS
from lopt.soft_prompt import SoftPrompt

# Matches config keys that limit which earlier tokens a token sees. A comparison on short texts would not show this.
_LIMITED_SIGHT_KEY = re.compile(
    r"(sliding|attention|local|global|block|chunk)_?(window|chunk|block|type|attention)|^window_size$"
)
# A deliberately wrong attention must lead at least this many times farther away from the plain form's result than the
# right attention does (`flat_form_agrees`).
_MIN_DISTANCE_RATIO = 4.0


def flat_form_agrees(flat_form: Any, plain_label_state: Callable[..., Tensor], ids_BT: Tensor) -> bool:
    """Return whether both forms give the same results and this check would have noticed a wrong attention.

    The flat form also runs with attention scores that are wrong on purpose: once halved, and once all equal. Its right
    result must be far closer to the plain form's than the wrong results are. If attention hardly matters in a model, or
    if rounding hides a wrong attention, the comparison proves nothing, and the answer is False.

    Args:
        flat_form: a `FlatForm` or `FlatEncoderForm`.
        plain_label_state: the plain form of its method `label_state`.
        ids_BT: ordinary token ids.
    """
    config = flat_form.model.config.to_dict()
    if any(_LIMITED_SIGHT_KEY.search(key) and value for key, value in config.items()):
        return False
    if set(config.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        return False
    if any(isinstance(module, torch.nn.Conv1d) for module in flat_form.model.modules()):
        return False  # a convolution would mix neighbouring rows
    lengths_B = torch.tensor([ids_BT.shape[1] - 2 * row for row in range(len(ids_BT))])
    prompt_PH = flat_form.model.get_input_embeddings()(ids_BT[0, :3])
    tolerance = 0.5 if flat_form.dtype == torch.bfloat16 else 1e-4  # the forms round at different places in every layer
    for placement in PLACEMENTS.values():
        soft_prompt = SoftPrompt(prompt=prompt_PH, placement=placement)
        plain_BH = plain_label_state(soft_prompt, ids_BT, lengths_B).float()

        def distance_from_plain(
            score_factor: float, soft_prompt: SoftPrompt = soft_prompt, plain_BH: Tensor = plain_BH
        ) -> float:
            flat_BH = flat_form.label_state(soft_prompt, ids_BT, lengths_B, score_factor=score_factor)
            return float((flat_BH.float() - plain_BH).norm())

        try:
            right_distance = distance_from_plain(1.0)
            wrong_distance = min(distance_from_plain(0.5), distance_from_plain(0.0))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False  # an unusual attention, or a model that does not pass `layout` to it
        is_close = right_distance <= tolerance * float(plain_BH.norm())
        if not (is_close and right_distance * _MIN_DISTANCE_RATIO <= wrong_distance):
            return False
    return True
