"""Tokens and disk, said before anything is read, beside what a sweep then took."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from lopt import methods
from sweeps import spaces
from sweeps.planning import plan_text, settings, sizes
from sweeps.planning.plan import make_plan
from sweeps.results.store import Store
from sweeps.run import main


def planned(name, profile="demo", **given):
    return make_plan(settings.with_settings(spaces.load(name, profile), given))


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


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_a_trained_artifact_is_as_large_as_was_said(method, placement, tiny, tmp_path):
    from lopt.training import Trial

    spec = methods.get(method)
    if placement == "suffix" and "placement" not in spec.OPTIONS:
        pytest.skip(f"{method} has no prompt to place")
    options = {"placement": placement} if "placement" in spec.OPTIONS else {}
    shapes = [(4, 1, "fp32"), (20, 3, "fp32"), (100, 4, "fp32"), (40, 2, "fp64")]
    for length, rank, precision in shapes if spec.uses_length or spec.uses_rank else shapes[:1]:
        shape = {"length": length if spec.uses_length else None, "rank": rank if spec.uses_rank else None}
        config = tiny.replace(
            method=method, options=options, precision=precision, max_steps=1, eval_every=1, test_examples=8, **shape
        )
        trial, folder = Trial(config), tmp_path / f"{length}"
        for _ in trial:
            pass
        trial.finish(artifact=folder)
        written = sum(file.stat().st_size for file in folder.iterdir())
        # In the smallest of them the description, whose numbers are of any length, is more than half.
        assert abs(sizes._artifact(config) - written) <= max(0.05 * written, 150), (config.length, config.rank)


def test_an_update_of_the_text_is_counted_once():
    """Of a real model, where the descriptions are nothing: A, B and P, then P and A B as they stand at the input."""
    made = settings.with_settings(
        spaces.load("table2", "paper"), {"method": "dept", "task": "sst2", "confirm_seeds": "1"}
    )
    written = 4 * (60 * 768 + 30 * (256 + 768)) + 4 * (60 + 256) * 768
    assert sizes.disk(make_plan(made)).artifacts == pytest.approx(written, rel=0.01)


def test_a_checkpoint_is_no_larger_than_was_said(tiny, tmp_path):
    from lopt.training import Trial

    for method in ("prompt_tuning", "lopt2"):
        config = tiny.replace(method=method, rank=None if method == "prompt_tuning" else 2, length=200)
        trial = Trial(config)
        next(iter(trial))
        (tmp_path / method).write_bytes(trial.saved())
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
    assert "predictions unknown" in plan_text.text(said, "run")


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
