"""Settings that are decided once for all trials of a sweep: precision, and the revisions of data and weights.

They are decided on a worker before the first trial, because the driver may have other hardware.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lopt.config import TrialConfig
from sweeps.results.store import Store

_REVISION_FIELDS = ("data_revision", "model_revision")


class ResolvedSettings:
    """Resolves all configurations of a run in the same way, so that its trials can be compared.

    Args:
        store: The store of the run. It may hold trials of earlier commands, which may have run on other machines.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._finished_configs: list[dict[str, Any]] = []  # configurations of the run's records
        self._revisions: dict[tuple[str, str], dict[str, str]] = {}  # by backbone and task
        self._automatic_precisions: dict[tuple[str, str], str] = {}  # what "auto" became, by backbone and task
        self._former_defaults: Mapping[str, Any] = {}

    def keep_former_defaults(self, former_defaults: Mapping[str, Any]) -> None:
        """Use these values, given by name, for options whose defaults have changed since the run began."""
        self._former_defaults = former_defaults

    def with_run_precision(self, configs: Sequence[TrialConfig]) -> list[TrialConfig]:
        """Return the configurations as they are to be prepared: "auto" becomes the precision of the run's trials.

        Otherwise this machine might choose another precision. "auto" stays if the run has no trial with this backbone
        and task yet, or if those trials differ in precision.
        """
        precisions_by_pair: dict[tuple[str, str], set[str]] = {}
        self._finished_configs = [record.config for record in self._store.records()]
        interrupted_configs = (config.to_dict() for config, _ in self._store.interrupted_trials())
        for values in (*self._finished_configs, *interrupted_configs):
            precisions_by_pair.setdefault((values["backbone"], values["task"]), set()).add(values["precision"])
        precision_by_pair = {
            pair: next(iter(precisions)) for pair, precisions in precisions_by_pair.items() if len(precisions) == 1
        }
        return [
            config.replace(precision=precision_by_pair.get((config.backbone, config.task), "auto"))
            if config.precision == "auto"
            else config
            for config in configs
        ]

    def add(self, configs: Sequence[TrialConfig], resolved_configs: Sequence[Mapping[str, Any]]) -> None:
        """Remember what each configuration became on a machine that runs trials. Call `with_run_precision` first.

        Raises:
            ValueError: Trials of the run have another precision, other data or other weights.
        """
        for config, values in zip(configs, resolved_configs, strict=True):
            pair = config.backbone, config.task
            self._revisions[pair] = {name: values[name] for name in _REVISION_FIELDS}
            if config.precision == "auto":
                self._automatic_precisions[pair] = values["precision"]
        for finished_config in self._finished_configs:
            pair = finished_config["backbone"], finished_config["task"]
            comparable_configs = [values for values in resolved_configs if (values["backbone"], values["task"]) == pair]
            for name in ("precision", *_REVISION_FIELDS):
                if comparable_configs and all(values[name] != finished_config[name] for values in comparable_configs):
                    field_title = name.replace("_", " ")
                    raise ValueError(
                        f"run {self._store.run!r} holds trials of {field_title} {finished_config[name]}, but here it "
                        f"is {comparable_configs[0][name]}: give --name for a new run, or restore what the run "
                        "began with"
                    )

    def __call__(self, config: TrialConfig) -> TrialConfig:
        """Return the configuration with its resolved settings, and with former defaults for options that are None.

        A configuration of an interrupted trial comes with the precision that it began with, and keeps it.
        """
        unset_names = {name for name, value in config.options.items() if value is None}
        former_defaults = {name: value for name, value in self._former_defaults.items() if name in unset_names}
        options = {**config.options, **former_defaults}
        pair = config.backbone, config.task
        precision = self._automatic_precisions[pair] if config.precision == "auto" else config.precision
        return config.replace(precision=precision, **self._revisions[pair], options=options)
