"""Within a step the CPU never waits for a GPU. PyTorch's device "meta" stands in for it: its tensors have no values.

A copy to the device must be made by `to_device`, which does not wait on a GPU. Here a stand-in replaces it, and every
other copy is noted. Reading a number of the device raises, because there is none.
"""

from __future__ import annotations

import contextlib
import copy
import sys

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lopt import device, stacks
from lopt.backbones import _texts
from lopt.backbones._flat import FlatForm
from lopt.config import TrialConfig
from lopt.engine import Engine
from lopt.optim import make_optimizer
from lopt.training import Trial

META = torch.device("meta")


class CopyFinder(TorchDispatchMode):
    """Notes operations that take tensors of both the CPU and the device, or that go from one to the other."""

    def __init__(self):
        super().__init__()
        self.copies, self.device_operation_count = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        lists = [value if isinstance(value, list | tuple) else [value] for value in (*args, result)]
        tensors = [value for values in lists for value in values if isinstance(value, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}  # a number of the CPU travels with the call
        self.device_operation_count += "meta" in devices
        if len(devices) > 1:
            self.copies.append(str(function))
        return result


class ListFinder(TorchFunctionMode):
    """Notes lists that PyTorch itself copies to the device: as the index of a tensor, or to make a tensor of them."""

    def __init__(self):
        super().__init__()
        self.copies = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        makes_tensor = function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == META
        index = args[1] if function is torch.Tensor.__getitem__ and args[0].device == META else None
        parts = index if isinstance(index, tuple) else (index,)
        if makes_tensor or any(isinstance(part, list | np.ndarray) for part in parts):
            self.copies.append(function.__name__)
        return function(*args, **kwargs)


def without_values(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


def make_trial(backbone, method, placement, seed, **changes):
    config = TrialConfig(
        task="toy", backbone=str(backbone), method=method, length=4, learning_rate=0.1, max_steps=99, eval_every=50,
        batch_size=4, precision="fp32", selection_examples=8, max_tokens=32, seed=seed,
        options={"placement": placement}, **changes,
    )  # fmt: skip
    return Trial(config, phase="search")


def to_device_stand_in(values, target):
    """Return what `to_device` returns, for numbers of the CPU, or for a tensor that is on the device already."""
    tensor = torch.as_tensor(values)
    return tensor if tensor.device == META else torch.empty(tensor.shape, dtype=tensor.dtype, device=META)


@contextlib.contextmanager
def on_a_made_up_gpu(trials, monkeypatch):
    """Move the trials and their backbone to a GPU whose tensors have no values."""
    backbone = trials[0].backbone
    is_causal = isinstance(backbone.flat, FlatForm)
    argument = backbone.pad_id if is_causal else (backbone._start_id, backbone._sentinel_id)
    real_to_device = device.to_device
    for module in list(sys.modules.values()):
        if getattr(module, "to_device", None) is real_to_device:
            monkeypatch.setattr(module, "to_device", to_device_stand_in)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know the device
    monkeypatch.setattr(stacks, "_is_close", lambda stacked, plain: True)  # it waits, but only when a stack is made
    monkeypatch.setattr(_texts, "_default_limit_bytes", lambda device: 10**9)
    model = copy.deepcopy(backbone.model)
    form_class = type(backbone.flat)
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    moved = without_values(tensor)
                    is_parameter = tensors is module._parameters
                    tensors[name] = torch.nn.Parameter(moved, requires_grad=False) if is_parameter else moved
    for attribute, value in (("model", model), ("device", META), ("flat", form_class(model, argument))):
        monkeypatch.setattr(backbone, attribute, value)
    for trial in trials:
        for tensors in (trial.factors, trial.frozen_factors):
            for name, tensor in tensors.items():
                tensors[name] = without_values(tensor).requires_grad_(tensor.requires_grad)
        trial.optimizer = make_optimizer(trial.config, trial.factors, {})
    yield


@pytest.mark.parametrize("method", ["lopt1", "dept"])
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_a_step_waits_for_nothing(folders, monkeypatch, family, placement, method):
    rank = {"rank": 2}
    trials = [make_trial(folders[family], method, placement, seed, **rank) for seed in range(3)]
    with on_a_made_up_gpu(trials, monkeypatch):
        engine = Engine(max_pass_tokens=4096)
        for trial in trials:
            engine.admit(trial)
        failures = engine.update_trials()
        assert not failures
        with CopyFinder() as finder, ListFinder() as list_finder:
            failures = engine.update_trials()
        assert not failures
    assert finder.device_operation_count > 100
    assert finder.copies + list_finder.copies == []
