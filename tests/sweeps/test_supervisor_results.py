"""What the supervisor does with records that a machine may keep elsewhere, and with machines that cannot be used."""

from __future__ import annotations

import json

import pytest

from sweeps.results.run_folder import StoreError
from tests.sweeps.test_supervisor import Sweep


def test_a_record_that_came_with_a_report_is_written_where_the_driver_looks():
    """The process of the trial may have written it elsewhere, or the file system may show it later."""
    sweep = Sweep()
    name, job = sweep.begin()
    record = sweep.record(job)
    sweep.supervisor.end(name, sweep.report(job, record=json.dumps(record.to_dict()), status="complete"))
    assert sweep.store.records == {job.key: record}
    sweep.supervisor.check_results()
    del sweep.store.records[job.key]
    with pytest.raises(StoreError, match=f"1 of the records of this command are gone, such as {job.key}.json"):
        sweep.supervisor.check_results()


def test_a_machine_that_cannot_be_used_ends_the_sweep():
    sweep = Sweep()
    name, job = sweep.begin()
    with pytest.raises(ValueError, match="no GPU"):
        sweep.supervisor.report(name, sweep.report(job, machine_error="machine x has no GPU"))


def test_trials_that_run_or_could_begin_are_counted():
    sweep = Sweep()
    assert sweep.supervisor.count_trials() == {True: 9}
    sweep.begin()
    assert (sweep.supervisor.running_count, sweep.supervisor.count_trials().total()) == (1, 9)
    sweep.budget_is_spent = True
    assert sweep.supervisor.count_trials().total() == sweep.supervisor.running_count == 1, "none begins any more"
