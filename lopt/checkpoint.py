"""A trial's checkpoint: what it needs to go on as if nothing had happened, as the bytes of a safetensors file.

Tensors are named `factor NAME`, `best NAME`, `state PLACE ENTRY` (of the optimiser) and `losses`. All else is JSON in
the header, under `trial`, so that a checkpoint can be described without torch and without its tensors.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from lopt.locations import Location, read_part
from lopt.records import Evaluation
from lopt.types import Tensor

# Attributes of a trial that a checkpoint holds as they are, and what else it holds of it.
KEPT = ("step", "tokens", "diverged", "started_at", "train_time_s", "evaluation_time_s")
_ENTRIES = (*KEPT, "key", "config", "phase", "cell", "train_loss", "best", "elapsed_s")
_LATER = {"train_time_s": 0.0, "evaluation_time_s": 0.0}  # of checkpoints that do not have these yet
_FIRST_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trial between two steps.

    trial: attributes of the trial (`KEPT`), which trial it is (key, config, phase, cell), train_loss, elapsed_s and the
    place of its best evaluation, None before any. factors, best_factors: trained tensors by name, now and as of the
    best evaluation. optimizer: its state by the place of the factor. losses: since the last evaluation.
    """

    trial: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    factors: Mapping[str, Tensor]
    best_factors: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Any]]
    losses: Sequence[Tensor]

    def to_bytes(self) -> bytes:
        """The content of its file."""
        import torch
        from safetensors.torch import save

        tensors = {f"factor {name}": factor for name, factor in self.factors.items()}
        tensors |= {f"best {name}": factor for name, factor in self.best_factors.items()}
        numbers: dict[str, Any] = {}
        for place, entries in self.optimizer.items():
            for name, value in entries.items():
                (tensors if torch.is_tensor(value) else numbers)[f"state {place} {name}"] = value
        if self.losses:
            tensors["losses"] = torch.stack(list(self.losses))
        evaluations = [asdict(evaluation) for evaluation in self.evaluations]
        described = {**self.trial, "evaluations": evaluations, "state": numbers}
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(on_cpu, metadata={"trial": json.dumps(described)})

    @classmethod
    def from_bytes(cls, content: bytes, *, key: str, factors: Iterable[str]) -> Self:
        """The inverse, of a trial of this key and these factors; ValueError when it is damaged, or another trial's."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(content)
            described = _LATER | _described(content[8 : 8 + _header_size(content)])
            if described["key"] != key:
                raise ValueError(f"its checkpoint belongs to trial {described['key']}")
            evaluations = [Evaluation(**values) for values in described["evaluations"]]
            at_best = None if described["best"] is None else evaluations[described["best"]]
            optimizer: dict[int, dict[str, Any]] = {}
            for name, value in (tensors | described["state"]).items():
                if name.startswith("state "):
                    _, place, entry = name.split(" ", 2)
                    optimizer.setdefault(int(place), {})[entry] = value
            return cls(
                trial={name: described[name] for name in _ENTRIES},
                evaluations=evaluations,
                factors={name: tensors[f"factor {name}"] for name in factors},
                best_factors={name: tensors[f"best {name}"] for name in factors} if at_best else {},
                optimizer=optimizer,
                losses=list(tensors.get("losses", ())),
            )
        except (SafetensorError, KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(f"its checkpoint is damaged ({type(error).__name__}: {error})") from None


def describe(path: Location) -> dict[str, Any]:
    """What a checkpoint's file says of itself, read without torch: key, config, phase, cell, step, evaluations, ...
    OSError when it cannot be read, ValueError when it is damaged."""
    begun = read_part(path, 0, _FIRST_BYTES)  # of a file at a URL no more than this, and the rest of a long header
    size = 8 + _header_size(begun)
    header = begun[8:size] + (read_part(path, len(begun), size) if size > len(begun) == _FIRST_BYTES else b"")
    try:
        described = _described(header)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a checkpoint: {error}") from None
    if not isinstance(described, dict):
        raise ValueError("not a checkpoint: its description is not an object")
    return described


def _header_size(content: bytes) -> int:
    """Of a safetensors file, whose first eight bytes say it."""
    return int.from_bytes(content[:8], "little")


def _described(header: bytes) -> Any:
    return json.loads(json.loads(header)["__metadata__"]["trial"])
