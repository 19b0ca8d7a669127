"""What a sweep's machines decide once for all its trials: precision, and the revisions of data and weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from lopt.config import TrialConfig
from sweeps.results.store import Store

_DECIDED = ("precision", "data_revision", "model_revision")


class ResolvedSettings:
    """Settles configurations of a run, whose trials must all be comparable.

    Args:
        store: of the run, which may hold trials of earlier commands, on other machines.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._old: list[dict[str, Any]] = []  # configurations of the run's trials
        self._found: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._former: Mapping[str, Any] = {}

    def keep(self, former: Mapping[str, Any]) -> None:
        """Takes the values that the run's trials have of options whose default has changed since."""
        self._former = former

    def with_run_precision(self, examples: Sequence[TrialConfig]) -> list[TrialConfig]:
        """The examples to prepare: where the precision is the machine's choice, in that of the run's own trials, for
        this machine may choose another."""
        own: dict[tuple[str, str], set[str]] = {}
        self._old = [record.config for record in self._store.records()]
        running = (config.to_dict() for config, _ in self._store.interrupted())
        for values in (*self._old, *running):
            own.setdefault((values["backbone"], values["task"]), set()).add(values["precision"])
        begun = {of: next(iter(found)) for of, found in own.items() if len(found) == 1}
        return [
            config.replace(precision=begun.get((config.backbone, config.task), "auto"))
            if config.precision == "auto"
            else config
            for config in examples
        ]

    def learn(self, examples: Sequence[TrialConfig], found: Sequence[Mapping[str, Any]]) -> None:
        """Takes what each of the examples became where trials run, after `with_run_precision`.

        Raises:
            ValueError: trials of the run had other precision, data or weights.
        """
        for config, values in zip(examples, found, strict=True):
            self._found[_decided_by(config)] = {name: values[name] for name in _DECIDED}
        for old in self._old:
            same = [v for v in found if (v["backbone"], v["task"]) == (old["backbone"], old["task"])]
            for name in _DECIDED:
                if same and all(v[name] != old[name] for v in same):
                    raise ValueError(
                        f"run {self._store.run!r} holds trials of {name.replace('_', ' ')} {old[name]}; here it is "
                        f"{same[0][name]}: give --name for a new run, or what it began with"
                    )

    def __call__(self, config: TrialConfig) -> TrialConfig:
        kept = {name: v for name, v in self._former.items() if name in config.options and config.options[name] is None}
        return config.replace(**self._found[_decided_by(config)], options={**config.options, **kept})


def _decided_by(config: TrialConfig) -> tuple[str, str, str]:
    return config.backbone, config.task, config.precision
