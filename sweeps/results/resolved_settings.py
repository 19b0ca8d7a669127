"""Settings that are decided once for all trials of a sweep: precision, and the revisions of data and weights.

They are decided on a worker before the first trial, because the driver may have other hardware.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lopt.config import TrialConfig
from sweeps.results.store import Store

_RESOLVED = ("precision", "data_revision", "model_revision")


class ResolvedSettings:
    """Completes the configurations of a run in the same way, so that all its trials can be compared.

    Args:
        store: The store of the run. It may hold trials of earlier commands, which may have run on other machines.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished: list[dict[str, Any]] = []  # configurations of the run's records
        self._resolved: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._former: Mapping[str, Any] = {}

    def keep_former_defaults(self, former: Mapping[str, Any]) -> None:
        """Use these values for options whose default has changed since the run began."""
        self._former = former

    def with_run_precision(self, examples: Sequence[TrialConfig]) -> list[TrialConfig]:
        """Return the example configurations that are to be prepared.

        Where the machine chooses the precision, they have the precision of the run's trials if there are any: this
        machine might choose another one.
        """
        precisions: dict[tuple[str, str], set[str]] = {}
        self._finished = [record.config for record in self._store.records()]
        interrupted = (config.to_dict() for config, _ in self._store.interrupted())
        for values in (*self._finished, *interrupted):
            precisions.setdefault((values["backbone"], values["task"]), set()).add(values["precision"])
        run_precision = {pair: next(iter(values)) for pair, values in precisions.items() if len(values) == 1}
        return [
            config.replace(precision=run_precision.get((config.backbone, config.task), "auto"))
            if config.precision == "auto"
            else config
            for config in examples
        ]

    def add(self, examples: Sequence[TrialConfig], resolved: Sequence[Mapping[str, Any]]) -> None:
        """Remember how each example was resolved where trials run. `with_run_precision` comes first.

        Raises:
            ValueError: Trials of the run have another precision, other data or other weights.
        """
        for config, values in zip(examples, resolved, strict=True):
            self._resolved[_decided_by(config)] = {name: values[name] for name in _RESOLVED}
        for finished in self._finished:
            pair = finished["backbone"], finished["task"]
            comparable = [values for values in resolved if (values["backbone"], values["task"]) == pair]
            for name in _RESOLVED:
                if comparable and all(values[name] != finished[name] for values in comparable):
                    raise ValueError(
                        f"run {self._store.run!r} holds trials of {name.replace('_', ' ')} {finished[name]}; here it "
                        f"is {comparable[0][name]}: give --name for a new run, or restore what the run began with"
                    )

    def __call__(self, config: TrialConfig) -> TrialConfig:
        """Return the configuration with its resolved settings."""
        unset = {name for name, value in config.options.items() if value is None}
        former = {name: value for name, value in self._former.items() if name in unset}
        return config.replace(**self._resolved[_decided_by(config)], options={**config.options, **former})


def _decided_by(config: TrialConfig) -> tuple[str, str, str]:
    """Return the settings that decide how a configuration is resolved."""
    return config.backbone, config.task, config.precision
