"""The flat form of a causal pass: the tokens of all rows in one line, without padding.

Linear layers and norms see tokens one by one; only attention needs to know which of them belong together (`_blocks`).
So rows of any length and of any trials go through the weights at once; a prefix is computed once for all rows that
share it, and a text in front of a suffix not at all when it has been met before (`_texts`).
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt.backbones import _attention
from lopt.backbones._blocks import Block, Layout, cut, without_padding
from lopt.backbones._read import read_at, restrict
from lopt.backbones._texts import TextStates
from lopt.batches import on_device
from lopt.placement import PLACEMENTS
from lopt.soft_prompt import PackedPrompts, SoftPrompt

# Keys of a config that, where they are set, limit which earlier tokens a token sees. Short texts do not show it.
_LIMITED_SIGHT = re.compile(
    r"(sliding|attention|local|global|block|chunk)_?(window|chunk|block|type|attention)|^window_size$"
)
# A flat form must be so many times closer to the plain one than one whose attention is wrong.
_CLOSER = 4.0
_TEXT_TOKENS = 2048  # of texts in one pass without gradients
_READ_TOKENS = 8  # tokens read in the time of computing one: guessed, and it only sizes passes


class _Line:
    """A pass as it grows: the rows' token ids `[B, T]` and lengths `[B]`, blocks of them, their embeddings, positions,
    and where each row's label is read."""

    def __init__(self, device: Any, ids: np.ndarray, lengths: np.ndarray) -> None:
        self.device, self.ids, self.lengths = device, ids, lengths
        self.blocks: list[Block] = []
        self.inputs: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.labels: dict[int, int] = {}

    def add(
        self, inputs_RTH: Tensor, lengths: np.ndarray | None = None, *, first: int | Tensor = 0, **before: Any
    ) -> Block:
        """Appends a block; `first` is the position of its rows' first token, or of each row's. What is beyond a row's
        length is left out."""
        rows, tokens, _ = inputs_RTH.shape
        begin, real = self.blocks[-1].end if self.blocks else 0, None
        if lengths is not None and (lengths < tokens).any():
            real = on_device(np.flatnonzero(np.arange(tokens) < lengths[:, None]), self.device)
        first_R1 = torch.as_tensor(first, device=self.device).expand(rows)[:, None]
        self.positions.append(without_padding(first_R1 + torch.arange(tokens, device=self.device), real))
        self.inputs.append(without_padding(inputs_RTH, real))
        made = Block(
            begin=begin, rows=rows, tokens=tokens, lengths=None if real is None else lengths, real=real, **before
        )
        self.blocks.append(made)
        return made

    def mark(self, block: Block, rows: np.ndarray) -> None:
        """The label of these rows of the batch, which are the block's, is read at their last token."""
        self.labels.update(zip(rows.tolist(), (block.ends - 1).tolist(), strict=True))


class FlatForm:
    """Passes of a frozen causal model in the flat form."""

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        weight_VH = model.get_input_embeddings().weight
        self.device, self.dtype = weight_VH.device, weight_VH.dtype
        self.kernels = self.device.type != "cpu"  # PyTorch's attention, in place of the one written for the CPU
        self._running, self._lock = 0, threading.Lock()
        self._usual_attention = ""
        _attention.register()
        restrict(model)

    def state(
        self, soft_prompt: SoftPrompt | PackedPrompts | None, ids_BT: Tensor, lengths_B: Tensor, *, scores: float = 1.0
    ) -> Tensor:
        """Last hidden state at the label position, `[B, H]`.

        scores: what the scores of attention are multiplied by; other numbers than 1 are wrong on purpose.
        """
        ids, lengths = ids_BT.cpu().numpy(), lengths_B.cpu().numpy()
        packed = None if soft_prompt is None else soft_prompt.packed(len(ids))
        line = _Line(self.device, ids, lengths)
        rows = np.arange(len(ids))
        if packed is None:
            for part, longest in self._blocks(rows, lengths):
                line.mark(line.add(self._embedded(ids[part, :longest]), lengths[part]), part)
        else:
            soft_prompts = [packed.prompts[owner] for owner in packed.owners]
            prompt_first = np.array([soft_prompt.placement.prompt_first for soft_prompt in soft_prompts])
            keeps_text = np.array([soft_prompt.keeps_text for soft_prompt in soft_prompts])
            sizes = np.array([soft_prompt.length for soft_prompt in soft_prompts])
            for size in np.unique(sizes):
                self._add_prefixed(line, packed, rows[prompt_first & (sizes == size)])
                self._add_suffixes(line, packed, rows[keeps_text & (sizes == size)])
            self._add_whole(line, packed, rows[~prompt_first & ~keeps_text])
        labels_B = on_device([line.labels[row] for row in range(len(ids))], self.device)
        return self._run(line, labels_B, scores=scores)[labels_B]

    def row_tokens(self, soft_prompt: SoftPrompt, length: int) -> int:
        """Tokens that a row takes in a pass; what a suffix sees of its text is read, and counts for little."""
        if soft_prompt.placement.prompt_first:
            return length  # the prompt is there once for many rows
        return soft_prompt.length + (length // _READ_TOKENS if soft_prompt.keeps_text else length)

    def unread(self, soft_prompt: SoftPrompt, texts: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """See `lopt.backbones.Backbone`."""
        return self.texts.missing(texts) if soft_prompt.keeps_text else []

    def _add_prefixed(self, line: _Line, packed: PackedPrompts, rows: np.ndarray) -> None:
        """Rows whose prompts, all of one length, stand in front; each prompt once."""
        if not len(rows):
            return
        owners, place = np.unique(np.asarray(packed.owners)[rows], return_inverse=True)
        prompts = line.add(torch.stack([packed.prompts[owner].prompt for owner in owners]).to(self.dtype))
        places = dict(zip(rows.tolist(), place.tolist(), strict=True))
        for part, longest in self._blocks(rows, line.lengths):
            text_RTH = packed.of_rows(part.tolist()).updated(self._embedded(line.ids[part, :longest]))
            owners_R = on_device([places[row] for row in part.tolist()], self.device)
            block = line.add(text_RTH, line.lengths[part], first=prompts.tokens, shared=prompts, owners_R=owners_R)
            line.mark(block, part)

    def _add_suffixes(self, line: _Line, packed: PackedPrompts, rows: np.ndarray) -> None:
        """Rows whose prompts, all of one length, stand behind texts that no trial changes: the prompts alone."""
        for part, _ in self._blocks(rows, line.lengths):
            past, past_lengths_R = self.texts.of([tuple(line.ids[row, : line.lengths[row]].tolist()) for row in part])
            used = sorted({packed.owners[row] for row in part})
            prompts_KPH = torch.stack([packed.prompts[owner].prompt for owner in used]).to(self.dtype)
            place = on_device([used.index(packed.owners[row]) for row in part], self.device)
            block = line.add(prompts_KPH[place], first=past_lengths_R, past=past, past_lengths=past_lengths_R)
            line.mark(block, part)

    def _add_whole(self, line: _Line, packed: PackedPrompts, rows: np.ndarray) -> None:
        """Rows of text and suffix that have nothing in common."""
        sizes = np.array([packed.prompts[owner].length for owner in packed.owners])
        for part, _ in self._blocks(rows, line.lengths + sizes):
            lengths = line.lengths[part]
            text_RTH = self._embedded(line.ids[part, : lengths.max()])
            inputs_RSH, ends_R = packed.of_rows(part.tolist()).placed(text_RTH, torch.from_numpy(lengths))
            line.mark(line.add(inputs_RSH, ends_R.numpy()), part)

    def _blocks(self, rows: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Rows cut into blocks of about one length, and each block's longest."""
        if len(rows):
            order = rows[np.argsort(lengths[rows], kind="stable")]
            for first, beyond in cut(lengths[order], self.device.type):
                yield order[first:beyond], int(lengths[order[beyond - 1]])

    def _embedded(self, ids: np.ndarray) -> Tensor:
        return self.model.get_input_embeddings()(on_device(ids, self.device))

    def _run(self, line: _Line, read: Tensor, kept: list[Tensor] | None = None, scores: float = 1.0) -> Tensor:
        """Last hidden states of a line, `[N, H]`, right where they are read, `[M]`."""
        with self._own_attention(), read_at(read):
            made = self.model.base_model(
                inputs_embeds=torch.cat(line.inputs)[None],
                position_ids=torch.cat(line.positions)[None],
                use_cache=False,
                layout=Layout(line.blocks, kept, scores, self.kernels),
            )
        return made.last_hidden_state[0]

    @contextlib.contextmanager
    def _own_attention(self) -> Iterator[None]:
        """The model's attention is `_attention` as long as any thread is in here."""
        config = self.model.config
        with self._lock:
            if not self._running:
                self._usual_attention, config._attn_implementation = config._attn_implementation, _attention.NAME
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    config._attn_implementation = self._usual_attention

    @cached_property
    def texts(self) -> TextStates:
        """Keys and values of texts in front of a suffix."""
        ((layers, _, heads, _, dimension),) = [states.shape for states in self._text_states([(self.pad_id,)])]
        return TextStates((layers, heads, dimension), self.dtype, self.device, self._text_states)

    def _text_states(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Keys and values of texts, `[L, 2, H_kv, T, D]` each."""
        made: dict[int, Tensor] = {}
        lengths = np.array([len(text) for text in texts])
        every = np.full((len(texts), lengths.max()), self.pad_id)
        for row, text in enumerate(texts):
            every[row, : len(text)] = text
        order = np.argsort(lengths, kind="stable")
        with torch.no_grad():
            while len(order):
                size = max(1, _TEXT_TOKENS // lengths[order[-1]])
                now, order = order[-size:], order[:-size]
                kept: list[Tensor] = []
                line, parts = _Line(self.device, every, lengths), []
                for part, longest in self._blocks(now, lengths):
                    parts.append((line.add(self._embedded(every[part, :longest]), lengths[part]), part))
                self._run(line, on_device(np.arange(0), self.device), kept)
                states_L2HND = torch.stack(kept)
                for block, part in parts:
                    for end, text in zip(block.ends.tolist(), part.tolist(), strict=True):
                        made[text] = states_L2HND[..., end - lengths[text] : end, :].clone()
        return [made[text] for text in range(len(texts))]


def flat_form_holds(form: FlatForm, plain_state: Callable[..., Tensor], ids_BT: Tensor) -> bool:
    """Whether the flat form gives what the plain one gives, and whether this would show if it did not.

    The flat form is also run with scores of attention that are wrong on purpose, halved and all equal: the right form
    must be far closer to the plain one than these. So a model whose attention has no say is not judged at all, nor one
    whose rounding hides it.

    Args:
        plain_state: the plain form's last hidden state at the label position. ids_BT: ordinary token ids.
    """
    config = form.model.config.to_dict()
    if any(_LIMITED_SIGHT.search(name) and value for name, value in config.items()):
        return False
    if set(config.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        return False
    if any(isinstance(module, torch.nn.Conv1d) for module in form.model.modules()):  # it would mix neighbouring rows
        return False
    lengths_B = torch.tensor([ids_BT.shape[1] - 2 * row for row in range(len(ids_BT))])
    prompt_PH = form.model.get_input_embeddings()(ids_BT[0, :3])
    rounding = 0.5 if form.dtype == torch.bfloat16 else 1e-4  # other places of rounding, through all layers
    for placement in PLACEMENTS.values():
        soft_prompt = SoftPrompt(prompt=prompt_PH, placement=placement)
        plain_BH = plain_state(soft_prompt, ids_BT, lengths_B).float()

        def distance(scores: float, soft_prompt: SoftPrompt = soft_prompt, plain_BH: Tensor = plain_BH) -> float:
            return float((form.state(soft_prompt, ids_BT, lengths_B, scores=scores).float() - plain_BH).norm())

        try:
            right, wrong = distance(1.0), min(distance(0.5), distance(0.0))
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
            return False  # attention of a special kind, or one that is not handed what it needs
        if not (right <= rounding * float(plain_BH.norm()) and right * _CLOSER <= wrong):
            return False
    return True
