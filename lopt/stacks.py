"""Stacks: packed trials of one shape, whose factors are entries of stacked tensors.

A trial's soft prompt, the gradients of its factors and its optimiser step are some sixty small operations. A stack
does them once for all its trials. Between steps a trial does not notice: its factors, gradients and optimiser state are
views of the stacked tensors, so it can be evaluated, saved, restarted and taken out at any time.

A trial that shares its shape with no other takes its own, plain path. It is the reference for the stacked one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lopt import adafactor
from lopt.device import to_device
from lopt.methods import PromptMethod
from lopt.optim import set_learning_rates
from lopt.soft_prompt import SoftPrompt
from lopt.training import Trial


def prompt_tensors(soft_prompt: SoftPrompt) -> list[Tensor]:
    """Return the tensors of a soft prompt: X and, if the method has one, the update."""
    return [soft_prompt.prompt] if soft_prompt.update is None else [soft_prompt.prompt, soft_prompt.update]


class Stack:
    """A trial by itself: the plain path.

    Attributes:
        trials: the K trials, here one.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = list(trials)

    @property
    def is_current(self) -> bool:
        """Whether the stacked tensors still are those of the trials."""
        return True

    def soft_prompt(self) -> SoftPrompt:
        """Return the trials' soft prompts as one, with tensors `[K, ...]`, as a function of the factors."""
        (trial,) = self.trials
        soft_prompt = trial.soft_prompt()
        assert soft_prompt is not None, "the engine admits only trials with a soft prompt"
        return soft_prompt.map(lambda tensor: tensor[None])

    def update(self, soft_prompt: SoftPrompt, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> None:
        """Take the gradients of the soft prompts' tensors, `[K, ...]`, to the factors, and make an optimiser step."""
        (trial,) = self.trials
        trial.clear_gradients()
        torch.autograd.backward(prompt_tensors(soft_prompt), gradients)
        trial.apply_gradients(losses[0])


class SameShapeStack(Stack):
    """Trials with factors of the same shapes, in stacked tensors.

    Raises:
        ValueError: the method does not give the same for stacked factors as for those of one trial.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        super().__init__(trials)
        first = trials[0]
        method = first.method
        assert isinstance(method, PromptMethod)
        self._method, self._options = method, first.config.options
        self._uses_adafactor = first.config.optimizer == "adafactor"
        self._frozen_factors = {
            name: torch.stack([trial.frozen_factors[name] for trial in trials]) for name in first.frozen_factors
        }
        self._factors = {name: self._stack_factors(name).requires_grad_() for name in first.factors}
        with torch.no_grad():
            plain_prompts = [prompt_tensors(Stack([trial]).soft_prompt()) for trial in trials]
            for stacked_KX, plain_1X in zip(
                prompt_tensors(self.soft_prompt()), zip(*plain_prompts, strict=True), strict=True
            ):
                if not _is_close(stacked_KX, torch.cat(plain_1X)):
                    raise ValueError(f"method {method.name} does not give the same prompts for stacked factors")
        for name, stacked in self._factors.items():
            for trial, view in zip(trials, stacked.detach().unbind(0), strict=True):
                trial.factors[name].data = view
        self._views: list[tuple[Trial, str, str, Tensor]] = []  # the trials' entries of the optimiser's state
        self._averages = {name: self._stack_averages(name) for name in self._factors} if self._uses_adafactor else {}

    def _stack_factors(self, name: str) -> Tensor:
        return torch.stack([trial.factors[name].detach() for trial in self.trials])

    def _stack_averages(self, name: str) -> dict[str, Tensor]:
        """Return the optimiser's averages of a factor in stacked tensors, and make the trials' own views of them."""
        averages = adafactor.empty_averages(self._factors[name].detach())
        for index, trial in enumerate(self.trials):
            state = trial.optimizer.state[trial.factors[name]]
            for entry_name, stacked in averages.items():
                view = stacked[index]
                if entry_name in state:
                    view.copy_(state[entry_name])
                state[entry_name] = view
                self._views.append((trial, name, entry_name, view))
            state.setdefault("step", 0)
        return averages

    @property
    def is_current(self) -> bool:
        # A restart clears the optimiser's state, and a checkpoint replaces it.
        return all(
            trial.optimizer.state[trial.factors[name]].get(entry_name) is view
            for trial, name, entry_name, view in self._views
        )

    def soft_prompt(self) -> SoftPrompt:
        return self._method.soft_prompt({**self._frozen_factors, **self._factors}, self._options)

    def update(self, soft_prompt: SoftPrompt, gradients: Sequence[Tensor], losses: Sequence[Tensor]) -> None:
        stacked_gradients = torch.autograd.grad(
            prompt_tensors(soft_prompt), list(self._factors.values()), list(gradients)
        )
        gradient_by_name = dict(zip(self._factors, stacked_gradients, strict=True))
        for name, gradient_KX in gradient_by_name.items():
            for trial, gradient in zip(self.trials, gradient_KX.unbind(0), strict=True):
                trial.factors[name].grad = gradient
        if self._uses_adafactor:
            self._make_adafactor_step(gradient_by_name)
            for trial, loss in zip(self.trials, losses, strict=True):
                trial.record_step(loss)
        else:
            for trial, loss in zip(self.trials, losses, strict=True):
                trial.apply_gradients(loss)

    @torch.no_grad()
    def _make_adafactor_step(self, gradient_by_name: Mapping[str, Tensor]) -> None:
        self._clip_gradients(gradient_by_name)
        columns_by_name = {name: [self._step_numbers(trial, name) for trial in self.trials] for name in self._factors}
        first_factor = next(iter(self._factors.values()))
        numbers_XK4 = to_device(np.array(list(columns_by_name.values())), first_factor.device).to(first_factor.dtype)
        for (name, columns), numbers_K4 in zip(columns_by_name.items(), numbers_XK4.unbind(0), strict=True):
            rates_K, decays_K, old_shares_K, new_shares_K = numbers_K4.unbind(1)
            factor_sizes_K = adafactor.update_factors(
                self._factors[name].detach(),
                gradient_by_name[name],
                self._averages[name],
                rates_K=rates_K,
                decays_K=decays_K if any(decay for _, decay, _, _ in columns) else None,
                old_shares_K=old_shares_K,
                new_shares_K=new_shares_K,
            )
            for trial, factor_size in zip(self.trials, factor_sizes_K.unbind(0), strict=True):
                trial.optimizer.state[trial.factors[name]]["RMS"] = factor_size

    def _step_numbers(self, trial: Trial, name: str) -> tuple[float, float, float, float]:
        """Count a step. Return the learning rate, the share that weight decay takes, and the weights of the averages'
        old and new parts."""
        set_learning_rates(trial.optimizer, trial.config, trial.step)
        factor = trial.factors[name]
        group = next(
            group for group in trial.optimizer.param_groups if any(tensor is factor for tensor in group["params"])
        )
        state = trial.optimizer.state[factor]
        state["step"] += 1
        new_share = adafactor.share_of_new(state["step"])
        return group["lr"], group["lr"] * group["weight_decay"], 1.0 - new_share, new_share

    def _clip_gradients(self, gradient_by_name: Mapping[str, Tensor]) -> None:
        """Do for each trial what `lopt.optim.clip_gradients` does."""
        for name, unit in self.trials[0].units.items():
            gradient_by_name[name].mul_(unit)
        gradients = list(gradient_by_name.values())
        norms_XK = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        limits = np.array([trial.config.clip_norm for trial in self.trials], dtype=np.float64)
        limits_K = to_device(limits, norms_XK.device).to(norms_XK.dtype)
        scales_K = (limits_K / (torch.linalg.vector_norm(norms_XK, dim=0) + 1e-6)).clamp_(max=1.0)
        for gradient in gradients:
            gradient.mul_(scales_K.view(-1, *(1,) * (gradient.ndim - 1)))


class Stacks:
    """The stacks of an engine. A stack lives as long as its trials stay together."""

    def __init__(self) -> None:
        self._stacks: list[Stack] = []
        self._shape_by_trial: dict[Trial, Any] = {}

    def of(self, trials: Iterable[Trial]) -> list[Stack]:
        """Return stacks that hold these trials, each trial in one."""
        self._shape_by_trial = {trial: self._shape_by_trial.get(trial) or _shape_of(trial) for trial in trials}
        trials_by_shape: dict[Any, list[Trial]] = {}
        for trial, shape in self._shape_by_trial.items():
            trials_by_shape.setdefault(shape, []).append(trial)
        kept_stacks = {tuple(stack.trials): stack for stack in self._stacks if stack.is_current}
        self._stacks = []
        for same_shape_trials in trials_by_shape.values():
            stack = kept_stacks.get(tuple(same_shape_trials))
            self._stacks += [stack] if stack else _make_stacks(same_shape_trials)
        return self._stacks


def _make_stacks(trials: Sequence[Trial]) -> list[Stack]:
    if len(trials) > 1:
        try:
            return [SameShapeStack(trials)]
        except (ValueError, RuntimeError, IndexError, TypeError):
            pass  # a method of a plugin may not take stacked factors
    return [Stack([trial]) for trial in trials]


def _shape_of(trial: Trial) -> Any:
    """Return what trials have in common whose factors can be stacked. Trials that cannot be stacked have no equal."""
    if not isinstance(trial.method, PromptMethod):
        return id(trial)
    tensors = {**trial.frozen_factors, **trial.factors}
    shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items())
    options = tuple(sorted((name, str(value)) for name, value in trial.config.options.items()))
    units = tuple(sorted(trial.units.items()))
    return trial.config.method, trial.config.optimizer, shapes, options, units


def _is_close(stacked: Tensor, plain: Tensor) -> bool:
    """Return whether two tensors are equal up to rounding. What is not a number is left out."""
    if stacked.shape != plain.shape:
        return False
    stacked, plain = stacked.nan_to_num(0.0, 0.0, 0.0), plain.nan_to_num(0.0, 0.0, 0.0)
    return bool((stacked - plain).norm() <= 1e-5 * plain.norm())
