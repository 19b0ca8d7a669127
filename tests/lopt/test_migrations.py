"""Records and checkpoints of earlier versions have today's fields when they are read."""

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
def test_a_record_of_each_schema_has_all_fields_of_todays(version):
    for file in (STORES / f"schema-{version}" / "trials").glob("*.json"):
        record = migrations.migrated(json.loads(file.read_text()))
        assert set(record) == {field.name for field in dataclasses.fields(TrialRecord)}
        for evaluation in record["evaluations"]:
            assert set(evaluation) == {field.name for field in dataclasses.fields(Evaluation)}
        assert TrialRecord.from_dict(record).schema_version == version


def test_there_is_a_migration_for_each_earlier_schema():
    names = [migrate.__name__ for migrate in migrations.MIGRATIONS]
    assert names == [f"from_schema_{version}" for version in range(1, migrations.SCHEMA_VERSION)]


def test_what_came_later_is_at_the_default_of_a_setting():
    """But for the warm-up, which the method's recipe decides."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrialSettings)}
    later = {name: value for name, value in migrations.SETTINGS.items() if name != "warmup"}
    assert later == {name: defaults[name] for name in later}


def test_a_checkpoint_that_does_not_have_its_times_yet_is_read(tiny):
    content = Trial(tiny).saved()
    for name in (b'"train_time_s"', b'"evaluation_time_s"'):
        escaped = name.replace(b'"', b'\\"')
        assert escaped in content
        content = content.replace(escaped, escaped.replace(b"time", b"xxxx"))
    trial = Trial(tiny)
    read = Checkpoint.from_bytes(content, key=trial.config.key, factors=trial.factors)
    assert (read.trial["train_time_s"], read.trial["evaluation_time_s"]) == (0.0, 0.0)


@pytest.mark.parametrize("version", range(1, migrations.SCHEMA_VERSION + 1))
@pytest.mark.parametrize("evaluations", [5, "text", [5], {"step": 1}])
def test_evaluations_of_another_kind_are_no_record(version, evaluations):
    file = next((STORES / f"schema-{version}" / "trials").glob("*.json"))
    with pytest.raises(ValueError, match=r"evaluations is|not a trial record"):
        TrialRecord.from_dict({**json.loads(file.read_text()), "evaluations": evaluations})
