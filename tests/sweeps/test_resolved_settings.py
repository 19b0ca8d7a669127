"""Settings that are decided once for all trials of a sweep."""

from __future__ import annotations

import lopt.resolve
from sweeps.results.resolved_settings import ResolvedSettings
from sweeps.results.store import Store
from sweeps.run import main


def sweep(out, *options, precision="auto"):
    changes = {"max_steps": 2, "eval_every": 2, "trials": 1, "precision": precision}
    pairs = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
    return main(["--space", "smoke", "--local-mode", "--out", str(out), *pairs, *options])


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path, monkeypatch, capsys):
    """The next machine might choose another precision, for example on a cluster with several kinds of GPUs."""
    monkeypatch.setattr(lopt.resolve, "default_precision", lambda: "fp32")
    assert sweep(tmp_path, "--max-trials", "1") == 4
    monkeypatch.setattr(lopt.resolve, "default_precision", lambda: "bf16")
    assert sweep(tmp_path) == 0
    records = Store(tmp_path, "smoke-paper").records()
    assert len(records) == 6
    assert {record.config["precision"] for record in records} == {"fp32"}
    assert sweep(tmp_path, "--name", "another") == 0
    assert {record.config["precision"] for record in Store(tmp_path, "another").records()} == {"bf16"}
    assert sweep(tmp_path, precision="bf16") == 2, "a precision that is given by name is another setting"
    assert "precision auto → bf16" in capsys.readouterr().err


def test_only_an_automatic_precision_of_the_same_model_is_replaced(tmp_path, tiny):
    from lopt.train_alone import train

    store = Store(tmp_path, "run")
    configs = [
        tiny.replace(precision="auto"),
        tiny.replace(precision="bf16"),
        tiny.replace(backbone="gpt2", precision="auto"),
    ]
    assert ResolvedSettings(store).with_run_precision(configs) == configs
    store.write(train(tiny.replace(precision="fp32", max_steps=2, eval_every=2)))
    assert [config.precision for config in ResolvedSettings(store).with_run_precision(configs)] == [
        "fp32",
        "bf16",
        "auto",
    ]
