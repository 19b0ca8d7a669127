"""Runs the rows of several trials in passes over one backbone.

A pass that runs out of memory is split. Several passes may run side by side (`lopt.lanes`).
"""

import contextlib
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lopt import memory
from lopt.backbones import Backbone
from lopt.device import to_device
from lopt.lanes import Lanes
from lopt.passes import Rows, SoftPrompts, count_row_tokens, divide_into_passes
from lopt.soft_prompt import PackedPrompts, SoftPrompt
from lopt.training import Trial

# The largest number of tokens in one pass, by type of device. On a GPU, memory may set a lower limit. An engine halves
# its own limit when memory runs out.
MAX_PASS_TOKENS_BY_DEVICE = {"cpu": 2048, "cuda": 32768}
_PASS_MEMORY_SHARE = 0.5  # the part of a GPU's free memory that one pass may take
_MIN_PASS_TOKENS = 64  # a limit at or below this number is not halved


def max_pass_tokens(backbone: Backbone) -> int:
    """Return the largest number of tokens in one pass. On a GPU, a small pass shows how much memory a token takes."""
    limit, device = MAX_PASS_TOKENS_BY_DEVICE[backbone.device.type], backbone.device
    if device.type != "cuda":
        return limit

    def run_small_pass() -> int:
        ids_BT, prompt_length = backbone.sample_ids(8, 56), 8
        prompt = torch.zeros(prompt_length, backbone.width, device=device, requires_grad=True)
        lengths_B = torch.full((len(ids_BT),), ids_BT.shape[1])
        label_ids = torch.arange(2, device=device)
        backbone.label_logits(SoftPrompt(prompt=prompt), ids_BT, lengths_B, label_ids).sum().backward()
        return ids_BT.numel() + prompt_length

    free_bytes, _ = torch.cuda.mem_get_info(device)
    fitting_tokens = _PASS_MEMORY_SHARE * free_bytes / memory.bytes_per_token(run_small_pass, device)
    return max(_MIN_PASS_TOKENS, min(limit, int(fitting_tokens)))


class PassRunner:
    """What runs passes over one backbone.

    Args:
        max_pass_tokens: the largest number of tokens in one pass. If it is None, it is chosen for the device. If memory
            runs out, the pass is split, and the attribute `max_pass_tokens` is halved for later passes.
        lane_count: number of passes that run side by side. If it is None, it is chosen for the backbone.
    """

    _backbone: Backbone  # this and the lanes are set by `_use_backbone`
    _lanes: Lanes

    def __init__(self, *, max_pass_tokens: int | None, lane_count: int | None) -> None:
        self.max_pass_tokens = max_pass_tokens or 0  # 0 until there is a backbone
        self._lane_count = lane_count
        self._lock = threading.Lock()  # held by a lane that changes what other lanes use
        self._token_share_by_trial: dict[Trial, float] = {}  # each trial's share of the tokens of the last passes

    def _use_backbone(self, backbone: Backbone) -> None:
        self._backbone, self._lanes = backbone, Lanes(backbone, self._lane_count)
        self.max_pass_tokens = self.max_pass_tokens or max_pass_tokens(backbone)

    def _cache_texts_ahead(self, rows: Rows, soft_prompts: SoftPrompts) -> None:
        """Compute, with all lanes, the keys and values that the backbone's store of texts lacks. All trials share the
        store. This comes first, because the first pass with a new text would make the other passes wait."""
        texts_by_owner: dict[int, list[tuple[int, ...]]] = {}
        for row in rows:
            texts_by_owner.setdefault(row.owner, []).append(row.token_ids)
        uncached_texts = {
            text
            for owner, texts in texts_by_owner.items()
            for text in self._backbone.uncached_texts(soft_prompts[owner], texts)
        }
        sorted_texts = sorted(uncached_texts, key=lambda text: (len(text), text))
        lane_count = min(self._lanes.count, len(sorted_texts))
        texts_of_lanes = [sorted_texts[lane::lane_count] for lane in range(lane_count)]
        with contextlib.suppress(Exception):  # the pass that needs the text will raise the error, and fail alone
            self._lanes.run(self._backbone.cache_texts, texts_of_lanes)

    def _run_rows(
        self,
        trials: Sequence[Trial],
        rows: Rows,
        soft_prompts: SoftPrompts,
        run_pass: Callable[[Rows], None],
        failures: dict[Trial, Exception],
        before_repeat: Callable[[], None] = lambda: None,
    ) -> None:
        """Run rows in passes. The trials of a pass that raises are added to `failures`. Then `before_repeat` is called,
        and the passes are repeated without these trials."""
        token_counts_K = np.zeros(len(soft_prompts))
        for row, token_count in zip(rows, count_row_tokens(rows, soft_prompts, self._backbone), strict=True):
            token_counts_K[row.owner] += token_count
        token_shares_K = (token_counts_K / max(1.0, token_counts_K.sum())).tolist()
        self._token_share_by_trial = dict(zip(trials, token_shares_K, strict=True))
        while rows:
            errors_by_owner = self._run_passes(rows, soft_prompts, run_pass)
            if not errors_by_owner:
                return
            failures.update((trials[owner], error) for owner, error in errors_by_owner.items())
            rows = [row for row in rows if row.owner not in errors_by_owner]
            before_repeat()

    def _run_passes(
        self, rows: Rows, soft_prompts: SoftPrompts, run_pass: Callable[[Rows], None]
    ) -> dict[int, Exception]:
        """Run rows in passes until one raises. Return its exception for each owner with rows in it, else `{}`."""
        waiting_passes = divide_into_passes(
            rows, soft_prompts, self._backbone, max_pass_tokens=self.max_pass_tokens, lane_count=self._lanes.count
        )
        errors_by_owner: dict[int, Exception] = {}

        def run_lane() -> None:
            while waiting_passes and not errors_by_owner:
                with self._lock:
                    if not waiting_passes:  # another lane took the last pass
                        return
                    pass_rows = waiting_passes.popleft()
                try:
                    run_pass(pass_rows)
                except Exception as error:
                    middle = len(pass_rows) // 2
                    with self._lock:
                        if middle and memory.is_out_of_memory(error) and self.max_pass_tokens > _MIN_PASS_TOKENS:
                            self.max_pass_tokens //= 2
                            waiting_passes.extendleft((pass_rows[middle:], pass_rows[:middle]))
                            memory.release_unused()
                        else:
                            errors_by_owner.update((row.owner, error) for row in pass_rows)

        self._lanes.run(lambda _: run_lane(), range(min(self._lanes.count, len(waiting_passes))))
        return errors_by_owner

    def _row_losses(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows, labels: Sequence[np.ndarray]
    ) -> Tensor:
        """Return the cross-entropy of each row over its own trial's classes, `[R]`."""
        logits_RC, logit_columns_by_owner = self._logits(trials, soft_prompts, rows)
        row_indices_by_logit_columns: dict[tuple[int, ...], list[int]] = {}  # rows of trials with the same label words
        for row_index, row in enumerate(rows):
            row_indices_by_logit_columns.setdefault(tuple(logit_columns_by_owner[row.owner]), []).append(row_index)
        losses_R = logits_RC.new_zeros(len(rows))
        for label_columns, indices in row_indices_by_logit_columns.items():
            classes = to_device([int(labels[rows[i].owner][rows[i].index_in_batch]) for i in indices], logits_RC.device)
            row_indices = to_device(indices, logits_RC.device)
            logits = logits_RC[row_indices].index_select(1, to_device(label_columns, logits_RC.device))
            losses = cross_entropy(logits, classes, reduction="none")
            losses_R = losses_R.index_copy(0, row_indices, losses)
        return losses_R

    def _logits(
        self, trials: Sequence[Trial], soft_prompts: SoftPrompts, rows: Rows
    ) -> tuple[Tensor, dict[int, list[int]]]:
        """Return the logits of rows for the label words of all their trials, `[R, C]`, and each owner's columns."""
        owners = sorted({row.owner for row in rows})
        packed_prompts = PackedPrompts(
            prompts=[soft_prompts[owner] for owner in owners], prompt_indices=[owners.index(row.owner) for row in rows]
        )
        lengths = np.array([len(row.token_ids) for row in rows])
        padded_ids = np.full((len(rows), lengths.max()), self._backbone.pad_id, dtype=np.int64)
        for index, row in enumerate(rows):
            padded_ids[index, : lengths[index]] = row.token_ids
        ids_RT, lengths_R = torch.from_numpy(padded_ids), torch.from_numpy(lengths)
        label_ids_by_owner = {owner: trials[owner].label_ids_on_cpu for owner in owners}
        all_label_ids = sorted({label_id for ids in label_ids_by_owner.values() for label_id in ids})
        label_ids_C = to_device(all_label_ids, self._backbone.device)
        logits_RC = self._backbone.label_logits(packed_prompts, ids_RT, lengths_R, label_ids_C)
        return logits_RC, {owner: list(map(all_label_ids.index, ids)) for owner, ids in label_ids_by_owner.items()}
