"""A trial's checkpoint: a safetensors file with all that the trial needs to continue bit for bit.

Tensors are named `factor NAME`, `best NAME`, `state INDEX NAME` (of the optimiser) and `losses`. Everything else is
the description: JSON in the header, under `trial`, so that it can be read without torch and without the tensors.

A trial writes a checkpoint at every evaluation but the last. The batches depend only on the lengths of the texts and on
the seed, so the checkpoint stores only the number of finished batches (`step`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from lopt.locations import Location, read_bytes_between
from lopt.records import Evaluation
from lopt.types import Tensor

# Attributes of `Trial` that a checkpoint holds as they are.
TRIAL_ATTRIBUTES = (
    "step", "abandoned_starts", "abandoned_steps", "tokens", "diverged", "started_at", "train_time_s",
    "evaluation_time_s",
)  # fmt: skip
_TRIAL_ENTRIES = (*TRIAL_ATTRIBUTES, "key", "config", "phase", "cell", "train_loss", "best", "elapsed_s")
# Older checkpoints lack these entries.
_DEFAULT_ENTRIES = {"train_time_s": 0.0, "evaluation_time_s": 0.0, "abandoned_starts": 0, "abandoned_steps": 0}
_SIZE_BYTES = 8  # a safetensors file begins with eight bytes that give the size of its header
_FIRST_READ_BYTES = 1 << 16  # number of bytes that are read while the size of the header is unknown


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trial between two steps.

    Attributes:
        trial_entries: the attributes of the trial (`TRIAL_ATTRIBUTES`), its identity (key, config, phase, cell),
            train_loss, elapsed_s, and best (index of the best evaluation, or None before the first evaluation).
        evaluations: all evaluations so far.
        factors: trained tensors by name. best_factors: the same at the best evaluation.
        optimizer_state: the optimiser's state by the index of the factor.
        losses: the training loss of each step since the last evaluation.
    """

    trial_entries: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    factors: Mapping[str, Tensor]
    best_factors: Mapping[str, Tensor]
    optimizer_state: Mapping[int, Mapping[str, Any]]
    losses: Sequence[Tensor]

    def to_bytes(self) -> bytes:
        """Return the content of the checkpoint's file."""
        import torch
        from safetensors.torch import save

        tensors = {f"factor {name}": factor for name, factor in self.factors.items()}
        tensors |= {f"best {name}": factor for name, factor in self.best_factors.items()}
        state_numbers: dict[str, Any] = {}
        for index, entries in self.optimizer_state.items():
            for state_name, value in entries.items():
                (tensors if torch.is_tensor(value) else state_numbers)[f"state {index} {state_name}"] = value
        if self.losses:
            tensors["losses"] = torch.stack(list(self.losses))
        evaluations = [asdict(evaluation) for evaluation in self.evaluations]
        description = {**self.trial_entries, "evaluations": evaluations, "state": state_numbers}
        cpu_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return save(cpu_tensors, metadata={"trial": json.dumps(description)})

    @classmethod
    def from_bytes(cls, content: bytes, *, key: str, factor_names: Iterable[str]) -> Self:
        """Read what `to_bytes` returned, for the trial with this key and these factors.

        Raises:
            ValueError: the content is damaged or belongs to another trial.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(content)
            description = _DEFAULT_ENTRIES | _parse_header(content[_SIZE_BYTES : _header_end(content)])
            if description["key"] != key:
                raise ValueError(f"its checkpoint belongs to trial {description['key']}")
            evaluations = [Evaluation(**values) for values in description["evaluations"]]
            best_evaluation = None if description["best"] is None else evaluations[description["best"]]
            optimizer_state: dict[int, dict[str, Any]] = {}
            for name, value in (tensors | description["state"]).items():
                if name.startswith("state "):
                    _, index, state_name = name.split(" ", 2)
                    optimizer_state.setdefault(int(index), {})[state_name] = value
            return cls(
                trial_entries={name: description[name] for name in _TRIAL_ENTRIES},
                evaluations=evaluations,
                factors={name: tensors[f"factor {name}"] for name in factor_names},
                best_factors={name: tensors[f"best {name}"] for name in factor_names} if best_evaluation else {},
                optimizer_state=optimizer_state,
                losses=list(tensors.get("losses", ())),
            )
        except (SafetensorError, KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
            raise ValueError(f"its checkpoint is damaged ({type(error).__name__}: {error})") from None


def read_description(path: Location) -> dict[str, Any]:
    """Return the description in a checkpoint's file: key, config, phase, cell, step, evaluations and so on. This needs
    no torch and does not read the tensors.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    first_bytes = read_bytes_between(path, 0, _FIRST_READ_BYTES)  # over a network, only the header is read
    header_end = _header_end(first_bytes)
    header = first_bytes[_SIZE_BYTES:header_end]
    if header_end > len(first_bytes) == _FIRST_READ_BYTES:
        header += read_bytes_between(path, len(first_bytes), header_end)
    try:
        description = _parse_header(header)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not a checkpoint: {error}") from None
    if not isinstance(description, dict):
        raise ValueError("not a checkpoint: its description is not an object")
    return description


def _header_end(content: bytes) -> int:
    """Return the position in a safetensors file at which the header ends. `content` is the file or its beginning."""
    return _SIZE_BYTES + int.from_bytes(content[:_SIZE_BYTES], "little")


def _parse_header(header: bytes) -> Any:
    return json.loads(json.loads(header)["__metadata__"]["trial"])
