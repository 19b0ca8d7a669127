"""Records and checkpoints of earlier versions have the current fields when they are read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lopt import migrations
from lopt.checkpoint import Checkpoint
from lopt.records import Evaluation, TrialRecord
from lopt.settings import TrialSettings
from lopt.training import Trial

STORES = Path(__file__).parents[1] / "stores"


@pytest.mark.parametrize("version", range(1, migrations.SCHEMA_VERSION + 1))
def test_a_record_of_each_schema_is_read_with_all_current_fields(version):
    for file in (STORES / f"schema-{version}" / "trials").glob("*.json"):
        record = migrations.migrate(json.loads(file.read_text()))
        assert set(record) == {field.name for field in dataclasses.fields(TrialRecord)}
        for evaluation in record["evaluations"]:
            assert set(evaluation) == {field.name for field in dataclasses.fields(Evaluation)}
        assert TrialRecord.from_dict(record).schema_version == version


def test_there_is_a_migration_for_each_earlier_schema():
    names = [migration.__name__ for migration in migrations.MIGRATIONS]
    assert names == [f"migrate_from_schema_{version}" for version in range(1, migrations.SCHEMA_VERSION)]


def test_later_settings_have_their_defaults_in_older_records():
    """The warm-up and the metric are exceptions, because the method's recipe and the task decide them."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrialSettings)}
    later = {name: value for name, value in migrations.LATER_SETTINGS.items() if name not in ("warmup", "metric")}
    assert later == {name: defaults[name] for name in later}


def test_an_older_checkpoint_without_times_is_read(tiny):
    content = Trial(tiny).to_checkpoint()
    for name in (b'"train_time_s"', b'"evaluation_time_s"'):
        escaped = name.replace(b'"', b'\\"')
        assert escaped in content
        content = content.replace(escaped, escaped.replace(b"time", b"xxxx"))
    trial = Trial(tiny)
    checkpoint = Checkpoint.from_bytes(content, key=trial.config.key, factor_names=trial.factors)
    assert (checkpoint.trial_entries["train_time_s"], checkpoint.trial_entries["evaluation_time_s"]) == (0.0, 0.0)


@pytest.mark.parametrize("version", range(1, migrations.SCHEMA_VERSION + 1))
@pytest.mark.parametrize("evaluations", [5, "text", [5], {"step": 1}])
def test_a_record_whose_evaluations_have_another_type_is_refused(version, evaluations):
    file = next((STORES / f"schema-{version}" / "trials").glob("*.json"))
    with pytest.raises(ValueError, match=r"`evaluations` is|not a trial record"):
        TrialRecord.from_dict({**json.loads(file.read_text()), "evaluations": evaluations})
