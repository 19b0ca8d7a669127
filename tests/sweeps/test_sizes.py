"""The estimate of tokens and disk space, compared with what a sweep then takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lopt import methods
from sweeps import spaces
from sweeps.planning import plan_text, settings, sizes
from sweeps.planning.plan import make_plan
from sweeps.results.store import Store
from sweeps.run import main


def plan_of(name, profile="demo", **values):
    return make_plan(settings.with_settings(spaces.load(name, profile), values))


def test_a_sweep_takes_what_was_estimated(tmp_path):
    values = {"max_tokens": "14", "test_examples": "50", "trials": "2"}
    plan = plan_of("smoke", **values)
    arguments = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    assert main(["--space", "smoke", "--profile", "demo", "--local-mode", "--out", str(tmp_path), *arguments]) == 0
    run = tmp_path / "smoke-demo"
    records = Store(tmp_path, "smoke-demo").records()
    steps, tokens = sum(record.steps for record in records), sum(record.tokens for record in records)
    bound = sizes.most_tokens(plan)
    assert bound is not None
    assert 0.5 * bound < tokens * plan.expected_steps / steps <= bound

    def folder_bytes(folder):
        return sum(path.stat().st_size for path in (run / folder).rglob("*") if path.is_file())

    disk = sizes.disk_use(plan)
    assert disk.records == pytest.approx(folder_bytes("trials"), rel=0.5)
    assert disk.artifacts == pytest.approx(folder_bytes("artifacts"), rel=0.5)
    # With so few examples, most of a Parquet file is overhead.
    assert disk.predictions < folder_bytes("predictions") < 10 * disk.predictions


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_a_trained_artifact_is_as_large_as_estimated(method, placement, tiny, tmp_path):
    from lopt.training import Trial

    method_class = methods.get(method)
    if placement == "suffix" and "placement" not in method_class.OPTIONS:
        pytest.skip(f"{method} has no prompt to place")
    options = {"placement": placement} if "placement" in method_class.OPTIONS else {}
    shapes = [(4, 1, "fp32"), (20, 3, "fp32"), (100, 4, "fp32"), (40, 2, "fp64")]
    for length, rank, precision in shapes if method_class.uses_length or method_class.uses_rank else shapes[:1]:
        shape = {
            "length": length if method_class.uses_length else None,
            "rank": rank if method_class.uses_rank else None,
        }
        config = tiny.replace(
            method=method, options=options, precision=precision, max_steps=1, eval_every=1, test_examples=8, **shape
        )
        trial, folder = Trial(config), tmp_path / f"{length}"
        for _ in trial:
            pass
        trial.finish(artifact=folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        # More than half of the smallest artifact is its description, whose numbers vary in length.
        assert abs(sizes._artifact_bytes(config) - size) <= max(0.05 * size, 150), (
            config.length,
            config.rank,
        )


def test_the_update_of_dept_is_counted_once():
    """A DePT artifact of a real model holds A, B and P, and also P and A B as they are at the input. The description is
    small compared with them."""
    plan = plan_of("table2", "paper", method="dept", task="sst2", confirm_seeds="1")
    written_bytes = 4 * (60 * 768 + 30 * (256 + 768)) + 4 * (60 + 256) * 768
    assert sizes.disk_use(plan).artifacts == pytest.approx(written_bytes, rel=0.01)


def test_a_checkpoint_is_not_larger_than_estimated(tiny, tmp_path):
    from lopt.training import Trial

    for method in ("prompt_tuning", "lopt2"):
        config = tiny.replace(method=method, rank=None if method == "prompt_tuning" else 2, length=200, options={})
        trial = Trial(config)
        next(iter(trial))
        (tmp_path / method).write_bytes(trial.to_checkpoint())
        factor_bytes = trial.counts.trainable * 4
        assert 2 * factor_bytes < (tmp_path / method).stat().st_size <= sizes._checkpoint_bytes(config) + 3000


def test_what_depends_on_the_data_is_called_unknown(capsys):
    assert main(["--space", "ablation", "--dry-run"]) == 0
    assert "tokens     unknown before the data is read" in capsys.readouterr().out
    assert main(["--space", "ablation", "--dry-run", "--json"]) == 0
    plan_dict = json.loads(capsys.readouterr().out)
    assert plan_dict["most_tokens"] is None
    assert plan_dict["disk_bytes"]["predictions"] == 50 * 872 * 2 * 8
    free_search = sizes.disk_use(plan_of("search"))
    assert free_search.artifacts is None
    assert free_search.records > 0


def test_predictions_on_a_task_folder_of_unknown_size(tmp_path):
    (tmp_path / "task.toml").write_text(
        'columns = ["text"]\nclasses = ["a", "b"]\ntemplate = "{text} is"\nlabel_words = [" a", " b"]\n'
        'train = "train.csv"\nreport = "test.csv"\n'
    )
    demo_plan = plan_of("ablation", task=str(tmp_path))
    assert sizes.disk_use(demo_plan).predictions == 10 * 512 * 2 * 8, "at most 512 examples are scored"
    paper_plan = plan_of("ablation", "paper", task=str(tmp_path), backbone="embedded")
    assert sizes.disk_use(paper_plan).predictions is None
    assert "predictions unknown" in plan_text.format_plan(paper_plan, "run")


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    trials=st.integers(1, 6),
    seeds=st.integers(1, 4),
    rank=st.integers(1, 9),
    batch=st.integers(1, 32),
    increased=st.sampled_from(["trials", "confirm_seeds", "rank", "batch_size"]),
)
def test_more_of_anything_does_not_take_less(trials, seeds, rank, batch, increased):
    values = {"trials": trials, "confirm_seeds": seeds, "rank": rank, "batch_size": batch, "length": 20}

    def tokens_and_disk(values):
        plan = plan_of("ablation", **{name: str(value) for name, value in values.items()})
        return sizes.most_tokens(plan), sizes.disk_use(plan)

    tokens, disk = tokens_and_disk(values)
    more_tokens, more_disk = tokens_and_disk({**values, increased: values[increased] + 1})
    assert more_tokens >= tokens
    assert more_disk.total >= disk.total


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (1500, "1.5 kB"), (82_000, "82 kB"), (3.6e6, "3.6 MB"), (41e9, "41 GB")]
)
def test_sizes_have_a_unit_that_reads_well(size, text):
    assert sizes.format_bytes(size) == text
