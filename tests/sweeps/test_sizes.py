"""Tokens and disk, said before anything is read, beside what a sweep then took."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sweeps import plan, settings, sizes, space
from sweeps.run import main
from sweeps.store import Store


def planned(name, profile="demo", **given):
    return plan.make_plan(settings.with_settings(space.load(name, profile), given))


def test_a_sweep_stays_within_what_was_said(tmp_path):
    given = {"max_tokens": "14", "test_examples": "50", "trials": "2"}
    said = planned("smoke", **given)
    arguments = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    assert main(["--space", "smoke", "--profile", "demo", "--local-mode", "--out", str(tmp_path), *arguments]) == 0
    run = tmp_path / "smoke-demo"
    records = Store(tmp_path, "smoke-demo").records()
    steps, bound = sum(r.steps for r in records), sizes.most_tokens(said)
    assert bound is not None
    assert 0.5 * bound < sum(r.tokens for r in records) * said.expected_steps / steps <= bound

    def taken(folder):
        return sum(path.stat().st_size for path in (run / folder).rglob("*") if path.is_file())

    disk = sizes.disk(said)
    assert disk.records == pytest.approx(taken("trials"), rel=0.5)
    assert disk.artifacts == pytest.approx(taken("artifacts"), rel=0.5)
    # Mostly the overhead of a Parquet file, at so few examples.
    assert disk.predictions < taken("predictions") < 10 * disk.predictions


def test_a_checkpoint_is_no_larger_than_was_said(tiny, tmp_path):
    from lopt.training import Trial

    for method in ("prompt_tuning", "lopt2"):
        config = tiny.replace(method=method, rank=None if method == "prompt_tuning" else 2, length=200)
        trial = Trial(config)
        next(iter(trial))
        trial.save(tmp_path / method)
        factors = trial.counts.trainable * 4
        assert 2 * factors < (tmp_path / method).stat().st_size <= sizes._checkpoint(config) + 3000


def test_what_only_the_data_tell_is_said_to_be_unknown(capsys):
    assert main(["--space", "ablation", "--dry-run"]) == 0
    assert "tokens     unknown before the data is read" in capsys.readouterr().out
    assert main(["--space", "ablation", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["most_tokens"] is None
    assert said["disk_bytes"]["predictions"] == 50 * 872 * 2 * 8
    free = sizes.disk(planned("search"))
    assert free.artifacts is None
    assert free.records > 0


def test_a_folder_whose_size_is_unknown(tmp_path):
    (tmp_path / "task.toml").write_text(
        'columns = ["text"]\nclasses = ["a", "b"]\ntemplate = "{text} is"\nlabel_words = [" a", " b"]\n'
        'train = "train.csv"\nreport = "test.csv"\n'
    )
    said = planned("ablation", task=str(tmp_path))
    assert sizes.disk(said).predictions == 10 * 512 * 2 * 8, "at most 512 examples are scored"
    said = planned("ablation", "paper", task=str(tmp_path), backbone="embedded")
    assert sizes.disk(said).predictions is None
    assert "predictions unknown" in plan.text(said, "run")


@examples(deadline=None, max_examples=40)
@given(
    trials=st.integers(1, 6),
    seeds=st.integers(1, 4),
    rank=st.integers(1, 9),
    batch=st.integers(1, 32),
    more=st.sampled_from(["trials", "confirm_seeds", "rank", "batch_size"]),
)
def test_more_of_anything_takes_no_less(trials, seeds, rank, batch, more):
    values = {"trials": trials, "confirm_seeds": seeds, "rank": rank, "batch_size": batch, "length": 20}

    def said(values):
        made = planned("ablation", **{name: str(value) for name, value in values.items()})
        return sizes.most_tokens(made), sizes.disk(made)

    (tokens, disk), (more_tokens, more_disk) = said(values), said({**values, more: values[more] + 1})
    assert more_tokens >= tokens
    assert more_disk.total >= disk.total


@pytest.mark.parametrize(
    ("size", "words"), [(12, "12 bytes"), (1500, "1.5 kB"), (82_000, "82 kB"), (3.6e6, "3.6 MB"), (41e9, "41 GB")]
)
def test_sizes_for_a_reader(size, words):
    assert sizes.shown(size) == words
