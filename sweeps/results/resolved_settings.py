"""Settings that are decided once for all trials of a sweep: precision, and the revisions of data and weights.

They are decided on a worker before the first trial, because the driver may have other hardware.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lopt.config import TrialConfig
from sweeps.results.store import Store

_RESOLVED = ("precision", "data_revision", "model_revision")


class ResolvedSettings:
    """Resolves all configurations of a run in the same way, so that its trials can be compared.

    Args:
        store: The store of the run. It may hold trials of earlier commands, which may have run on other machines.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished_configs: list[dict[str, Any]] = []  # configurations of the run's records
        self._resolved: dict[tuple[str, str, str], dict[str, Any]] = {}  # by `_resolution_key`
        self._former_defaults: Mapping[str, Any] = {}

    def keep_former_defaults(self, former_defaults: Mapping[str, Any]) -> None:
        """Use these values, given by name, for options whose defaults have changed since the run began."""
        self._former_defaults = former_defaults

    def with_run_precision(self, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
        """Return the configurations as they are to be prepared: precision "auto" becomes that of the run's trials.

        Otherwise this machine might choose another precision. "auto" stays if the run has no trial with this backbone
        and task yet, or if its trials differ in precision.
        """
        precisions: dict[tuple[str, str], set[str]] = {}
        self._finished_configs = [record.config for record in self._store.records()]
        interrupted = (config.to_dict() for config, _ in self._store.interrupted_trials())
        for values in (*self._finished_configs, *interrupted):
            precisions.setdefault((values["backbone"], values["task"]), set()).add(values["precision"])
        run_precision = {pair: next(iter(values)) for pair, values in precisions.items() if len(values) == 1}
        return [
            config.replace(precision=run_precision.get((config.backbone, config.task), "auto"))
            if config.precision == "auto"
            else config
            for config in configs
        ]

    def add(self, configs: Sequence[TrialConfig], resolved: Sequence[Mapping[str, Any]]) -> None:
        """Remember what each configuration became on a machine that runs trials. Call `with_run_precision` first.

        Raises:
            ValueError: Trials of the run have another precision, other data or other weights.
        """
        for config, values in zip(configs, resolved, strict=True):
            self._resolved[_resolution_key(config)] = {name: values[name] for name in _RESOLVED}
        for finished in self._finished_configs:
            pair = finished["backbone"], finished["task"]
            comparable = [values for values in resolved if (values["backbone"], values["task"]) == pair]
            for name in _RESOLVED:
                if comparable and all(values[name] != finished[name] for values in comparable):
                    title = name.replace("_", " ")
                    raise ValueError(
                        f"run {self._store.run!r} holds trials of {title} {finished[name]}, but here it is "
                        f"{comparable[0][name]}: give --name for a new run, or restore what the run began with"
                    )

    def __call__(self, config: TrialConfig) -> TrialConfig:
        """Return the configuration with its resolved settings, and with former defaults for options that are None."""
        unset_names = {name for name, value in config.options.items() if value is None}
        former_defaults = {name: value for name, value in self._former_defaults.items() if name in unset_names}
        options = {**config.options, **former_defaults}
        return config.replace(**self._resolved[_resolution_key(config)], options=options)


def _resolution_key(config: TrialConfig) -> tuple[str, str, str]:
    """Return the settings that decide how a configuration is resolved."""
    return config.backbone, config.task, config.precision
