"""Draws examples at random: stratified by their classes, or whole groups of them where examples belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from lopt.encoding import Example

_HELD_OUT_SHARE, _MAX_HELD_OUT = 0.1, 5000


@dataclass(frozen=True)
class SampledTargets:
    """What decides how N examples are drawn: their classes `[N]` and, if they have some, their groups `[N, 2]`."""

    labels: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Self:
        """Return the targets of these examples."""
        has_groups = bool(examples) and examples[0].groups is not None
        groups = np.array([example.groups for example in examples]) if has_groups else None
        return cls(np.array([example.class_number for example in examples]), groups)


def stratified_sample(labels: np.ndarray, size: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the sorted positions of a sample in which each class has its share of `labels`, to within one example."""
    classes, counts = np.unique(labels, return_counts=True)
    exact_quotas = counts * (size / len(labels))
    quotas = np.floor(exact_quotas).astype(int)
    missing_count = size - quotas.sum()
    quotas[np.argsort(quotas - exact_quotas, kind="stable")[:missing_count]] += 1
    positions = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(positions))


def hold_out(targets: SampledTargets, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the training examples, and of the selection examples that are held out of them.

    The selection examples are a stratified sample of 10 % of all examples, but at most 5,000. If the examples belong to
    clusters, they are whole clusters, so that no text of a cluster is both trained on and selected on.
    """
    size = max(1, min(_MAX_HELD_OUT, int(len(targets) * _HELD_OUT_SHARE)))
    generator = np.random.RandomState([seed, 0])
    if targets.groups is None:
        selection = stratified_sample(targets.labels, size, generator)
    else:
        selection = _whole_groups(targets.groups[:, 0], size, generator)
    return np.setdiff1d(np.arange(len(targets)), selection), selection


def halve(targets: SampledTargets, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the selection examples and of the reported ones: two halves of a random permutation.

    The halves are not stratified. With seed 42 they are those that Compacter, ATTEMPT and DePT drew (with
    `torch.randperm`). Table 2 quotes the results of these papers. If the examples belong to clusters, each half has
    whole clusters. (DePT also halved the rows of such tasks, which tears the answers to one question apart.)
    """
    count = len(targets)
    if targets.groups is not None:
        selection = _whole_groups(targets.groups[:, 0], count // 2, np.random.RandomState([seed, 5]))
        return selection, np.setdiff1d(np.arange(count), selection)
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
    return np.sort(order[: count // 2]), np.sort(order[count // 2 :])


def few_shot_sample(labels: np.ndarray, shots: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the sorted positions of `shots` examples of each class, or of all its examples if a class has fewer."""
    positions = [generator.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return np.sort(np.concatenate(positions))


def draw_subset(
    targets: SampledTargets,
    positions: np.ndarray,
    size: int | None,
    seed: int,
    stream_index: int,
    *,
    may_tear_groups: bool = False,
) -> np.ndarray:
    """Return a stratified subset of `size` positions, or all of them if `size` is None or not smaller.

    If the examples belong to groups, it is whole groups with at most `size` examples, but at least one group.

    Args:
        stream_index: index of the random stream, so that the subsets of different parts are drawn independently.
        may_tear_groups: whether single examples of a group may be drawn, as in training.
    """
    if size is None or size >= len(positions):
        return positions
    generator = np.random.RandomState([seed, stream_index])
    if targets.groups is not None and not may_tear_groups:
        return positions[_whole_groups(targets.groups[positions, 1], size, generator)]
    return positions[stratified_sample(targets.labels[positions], size, generator)]


def _whole_groups(group_N: np.ndarray, size: int, generator: np.random.RandomState) -> np.ndarray:
    """Return the sorted positions of randomly drawn groups with at most `size` examples, but at least one group."""
    names, index_N, sizes = np.unique(group_N, return_inverse=True, return_counts=True)
    order = generator.permutation(len(names))
    drawn_count = max(1, int(np.searchsorted(np.cumsum(sizes[order]), size, side="right")))
    return np.flatnonzero(np.isin(index_N, order[:drawn_count]))
