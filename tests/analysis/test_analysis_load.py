"""Reading the store: pooling, damage, old failures, which run is the newest."""

import json

import pytest

from analysis.cells import groups, short_names
from analysis.load import load
from analysis.notes import notes, warnings
from analysis.records import row
from analysis.runs import ReportError, find_runs, resolve
from lopt import migrations


def test_frame_has_one_row_a_trial(full_run):
    frame = load([full_run]).frame
    assert len(frame) == 50 and frame["key"].is_unique
    assert {"phase", "status", "method", "rank", "trainable_parameters", "test_accuracy"} <= set(frame.columns)


def test_pooling_counts_a_key_once_and_prefers_what_did_not_fail(store):
    a, b = store(name="a"), store(name="b")
    same = a.confirm("lopt1", 10, 1, 0.8)
    b.put(same)
    failed = a.search("lopt1", 10, 2, status="failed", error={"type": "E", "message": ""}, selection_accuracy=None)
    b.put(failed | {"status": "complete", "error": None})
    b.confirm("lopt1", 10, 1, 0.9, config__seed=2)
    results = load([a.write(), b.write()])
    assert (len(results.trials), results.repeated) == (3, 2)
    assert all(t.status == "complete" for t in results.trials)
    assert groups(results)[0].find("lopt1", 10, 1).accuracy.seeds == 2


def test_seeds_of_two_configurations_are_not_averaged(store):
    s = store()
    s.confirm("lopt1", 10, 1, 0.9, selection_accuracy=0.7, config__learning_rate=0.3)
    s.confirm("lopt1", 10, 1, 0.8, selection_accuracy=0.8, config__learning_rate=0.1)
    cell = groups(load([s.write()]))[0].find("lopt1", 10, 1)
    assert (cell.accuracy.mean, cell.accuracy.seeds) == (0.8, 1)


def test_of_several_confirmed_settings_the_search_says_which_counts(store):
    """More search trials had another winner, whose fresh seeds happen to do worse than those of the winner before."""
    s = store()
    for rate, searched, confirmed in ((0.3, 0.8, 0.9), (0.1, 0.9, 0.7)):
        s.search("lopt1", 10, 1, selection_accuracy=searched, config__learning_rate=rate)
        for seed in (2, 3):
            tested = {"config__learning_rate": rate, "config__seed": seed, "selection_accuracy": confirmed}
            s.confirm("lopt1", 10, 1, confirmed - 0.1, **tested)
    found = load([s.write()])
    cell = groups(found)[0].find("lopt1", 10, 1)
    assert {trial.learning_rate for trial in cell.confirmed} == {0.1}
    assert (cell.accuracy.mean, cell.accuracy.seeds) == (pytest.approx(0.6), 2)
    assert "n=10 r=1: 2 settings have confirmed trials" in (said := " ".join(notes(found, groups(found))))
    assert "at learning rate 0.1" in said
    assert "better setting" not in " ".join(warnings(found, groups(found)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"selection_accuracy": 0.8}, {"selection_accuracy": 0.9, "status": "stopped"}),
        ({"selection_accuracy": 0.8, "selection_loss": 0.4}, {"selection_accuracy": 0.8, "selection_loss": 0.5}),
        ({"selection_accuracy": 0.8, "key": "f" * 16}, {"selection_accuracy": 0.8, "key": "0" * 16}),
    ],
)
def test_the_winner_is_the_one_that_the_sweep_confirms(store, first, second):
    s = store()
    s.search("lopt1", 10, 1, config__learning_rate=0.3, **first)
    s.search("lopt1", 10, 1, config__learning_rate=0.1, **second)
    s.confirm("lopt1", 10, 1, 0.7, config__learning_rate=0.3)
    s.confirm("lopt1", 10, 1, 0.9, config__learning_rate=0.1)
    assert groups(load([s.write()]))[0].find("lopt1", 10, 1).accuracy.mean == 0.7


def test_a_winner_without_a_confirmed_trial_is_told_of(store):
    s = store()
    s.search("lopt1", 10, 1, selection_accuracy=0.8, config__learning_rate=0.3)
    s.search("lopt1", 10, 1, selection_accuracy=0.9, config__learning_rate=0.1)
    s.confirm("lopt1", 10, 1, 0.7, config__learning_rate=0.3)
    found = load([s.write(status="stopped")])
    assert groups(found)[0].find("lopt1", 10, 1).accuracy.mean == 0.7
    assert "better setting than the confirmed one" in " ".join(warnings(found, groups(found)))


def with_values(text, **values):
    return json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "[]", "not a record: a JSON object is wanted, this is a list"),
        (lambda text: "5", "not a record: a JSON object is wanted, this is a number"),
        (lambda text: "null", "not a record: a JSON object is wanted, this is null"),
        (lambda text: '"a"', "not a record: a JSON object is wanted, this is a text"),
        (lambda text: with_values(text, provenance=[1]), "provenance is [1], not an object"),
        (lambda text: with_values(text, error="no"), "error is 'no', not an object"),
        (lambda text: with_values(text, config=[]), "config is [], not an object"),
        (lambda text: with_values(text, evaluations={"a": 1}), "evaluations is {'a': 1}, not a list of objects"),
        (lambda text: with_values(text, evaluations=[5]), "evaluations is [5], not a list of objects"),
        (lambda text: with_values(text, evaluations=[{"predictions": {}}]), "predictions is {}, not a text"),
        (lambda text: with_values(text, truncated=7), "truncated is 7, not an object"),
        (lambda text: with_values(text, truncated={"test": "many"}), "test is 'many', not a number"),
        (lambda text: with_values(text, provenance={"reused_from": []}), "reused_from is [], not a text"),
        (lambda text: text.replace('"schema_version": 3', '"schema_version": 9'), "schema_version 9"),
        (lambda text: text.replace('"selection_accuracy": 0.8,', '"selection_accuracy": 80,'), "not a fraction"),
        (lambda text: text.replace('"status": "complete"', '"status": "done"'), "not one of complete"),
    ],
)
def test_damaged_record_is_named_and_skipped(store, damage, says):
    s = store()
    s.search("lopt1", 10, 1)
    file = s.path / "trials" / f"{s.search('lopt1', 10, 2)['key']}.json"
    file.write_text(damage(file.read_text()))
    results = load([s.write()])
    assert len(results.trials) == 1
    (text,) = results.unreadable
    assert file.name in text and says in text


def test_old_failures_and_files_being_written_are_not_trials(store):
    s = store()
    record = s.search("lopt1", 10, 1)
    (s.path / "trials" / f"{record['key']}.failed-1.json").write_text(json.dumps(record))
    (s.path / "trials" / ".half.json").write_text("{")
    results = load([s.write()])
    assert (len(results.trials), results.superseded, results.unreadable) == (1, 1, ())


def test_newest_run_is_by_updated_at(store, tmp_path):
    for name, year in (("old", 2001), ("new", 2003), ("middle", 2002)):
        store(name=name).write(updated_at=f"{year}-01-01T00:00:00+00:00")
    root = tmp_path / "results"
    assert [path.name for path in find_runs(root)] == ["new", "middle", "old"]
    assert [path.name for path in resolve([], root)] == ["new"]
    assert [path.name for path in resolve(["old", str(root / "old")], root)] == ["old"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("[]", "not a manifest: a JSON object is wanted, this is a list"),
        ("3", "not a manifest: a JSON object is wanted, this is a number"),
        ({"space": {"rungs": 5}}, "rungs is 5, not a list of whole numbers"),
        ({"space": {"rungs": ["a"]}}, "rungs is ['a'], not a list of whole numbers"),
        ({"space": {"cells": {"a": 1}}}, "cells is {'a': 1}, not a list of objects"),
        ({"space": {"cells": [5]}}, "cells is [5], not a list of objects"),
        ({"space": {"cells": [{"config": 5}]}}, "config is 5, not an object"),
        ({"space": {"base": [1]}}, "base is [1], not an object"),
        ({"left_out": 5}, "left_out is 5, not a list of texts"),
        ({"left_out": [[]]}, "left_out is [[]], not a list of texts"),
        ({"elapsed_s": "abc"}, "elapsed_s is 'abc', not a number"),
    ],
)
def test_a_manifest_of_another_form_is_an_error_in_plain_words(store, change, says):
    path = store().write()
    file = path / "manifest.json"
    file.write_text(change if isinstance(change, str) else with_values(file.read_text(), **change))
    with pytest.raises(ReportError) as error:
        load([path])
    assert f"manifest.json cannot be read ({says})" in str(error.value)


def test_a_manifest_without_what_is_optional_is_read(store):
    path = store().write(provenance=None, left_out=None, elapsed_s=float("nan"))
    (run,) = load([path]).runs
    assert run.elapsed_s is None and not run.left_out
    assert warnings(load([path]), groups(load([path])))


@pytest.mark.parametrize("name", ["audits.json", "probe.json", "baselines.json"])
@pytest.mark.parametrize("content", ["{", "5", '"a"', '{"a": 5}', "[5]", "null", '{"a": {"step": "x"}}'])
def test_a_damaged_file_beside_the_records_is_named(store, name, content):
    s = store()
    s.confirm("lopt1", 10, 1, 0.8)
    path = s.write()
    (path / name).write_text(content)
    results = load([path])
    (text,) = results.unreadable
    assert text.startswith(f"synthetic-run/{name}: not ") or ", not a" in text
    assert "Error" not in text
    assert len(results.trials) == 1
    (warning,) = [w for w in warnings(results, groups(results)) if name in w]
    assert "1 file could not be read" in warning


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1}', "\xff"])
def test_damaged_manifest_is_an_error(store, text):
    path = store().write()
    (path / "manifest.json").write_text(text)
    with pytest.raises(ReportError, match=r"manifest\.json cannot be read .* repeat the sweep's command"):
        load([path])


def test_nan_reads_as_missing(store):
    assert row(store().record("lopt1", 10, 1, selection_accuracy=None, wall_time_s=float("nan"))).wall_time_s is None


def test_fields_that_are_new_or_unknown_do_not_matter(store):
    old = store().record("lopt1", 10, 1)
    new = json.loads(json.dumps(old))
    new["config"] |= {"warmup": None, "shots": None, "holdout": None}
    for each in new["evaluations"]:
        each |= {"selection_macro_f1": 0.7, "of_tomorrow": [1]}
    assert row(new | {"of_tomorrow": {}}) == row(old)  # the same configuration, too: its seeds are pooled
    new["config"] |= {"warmup": 500, "holdout": "halve", "shots": 16, "of_tomorrow": {"a": 1}}
    assert row(new).shots == 16 and row(new).configuration != row(old).configuration


def test_few_shot_runs_are_a_group_of_their_own(store):
    s = store(cells=[("lopt1", 10, 1)])
    s.confirm("lopt1", 10, 1, 0.9)
    for shots in (4, 16):
        s.confirm("lopt1", 10, 1, 0.7, config__shots=shots)
    assert {group.title for group in groups(load([s.write()]))} == {
        "movie_snippets with SmolLM2-135M-Instruct",
        "movie_snippets with SmolLM2-135M-Instruct (4-shot)",
        "movie_snippets with SmolLM2-135M-Instruct (16-shot)",
    }


def test_a_planned_cell_whose_size_was_searched_is_the_confirmed_one(store):
    s = store(cells=[("dept", None, None)])
    s.search("dept", 80, 15, cell="dept")
    s.confirm("dept", 40, 45, 0.8, cell="dept")
    (group,) = groups(load([s.write()]))
    assert {(c.length, c.rank, c.planned) for c in group.cells} == {(80, 15, False), (40, 45, True)}
    assert [cell.label for cell in group.confirmed] == ["DePT n=40 r=45"]


def test_labels_of_methods_without_a_length_or_of_plugins(store):
    s = store(cells=[("lora", None, 8), ("fine_tuning", None, None), ("mine", 5, None)])
    (group,) = groups(load([s.write()]))
    assert [cell.label for cell in group.cells] == ["LoRA r=8", "Fine-tuning", "mine n=5"]


@pytest.mark.parametrize(
    ("identities", "names"),
    [
        (["/data/me/tickets", "sst2"], ["tickets", "sst2"]),
        (["/data/me/tickets/"], ["tickets"]),
        (["/data/me/tickets", "/data/you/tickets"], ["me/tickets", "you/tickets"]),
        (["/data/sst2", "sst2"], ["data/sst2", "sst2"]),
        (["/tickets", "tickets", "/"], ["/tickets", "tickets", "/"]),
    ],
)
def test_folders_are_called_by_their_last_part(identities, names):
    assert list(short_names(identities).values()) == names


def test_backbones_of_the_hub_keep_their_owner(store):
    names = {"/models/gpt2-large": "gpt2-large", "google-t5/t5-base": "google-t5/t5-base", "./t5/": "t5"}
    paths = [store(name=f"run{i}", backbone=each).write() for i, each in enumerate(names)]
    assert {group.backbone: group.backbone_name for group in groups(load(paths))} == names


def test_frozen_is_one_class_at_every_evaluation(store):
    record = store().record("lopt1", 10, 1)
    assert not row(record).frozen
    for each in record["evaluations"]:
        each["top_class_share"] = 1.0
    assert row(record).frozen
    assert not row(record | {"evaluations": []}).frozen


def test_tasks_are_called_by_their_titles_where_their_folders_are_gone(store):
    folder = "/no/such/folder/tickets"
    runs = []
    for name, task, title in (
        ("a", folder, "Support tickets"), ("b", "/x/mails", "Mails"), ("c", "/y/mails", "Mails"),
        ("d", "sst2", "SST-2"), ("e", "/z/unnamed", None),
    ):  # fmt: skip
        s = store(name=name, task=task, cells=[("lopt1", 10, 1)])
        s.confirm("lopt1", 10, 1, 0.8)
        runs.append(s.write(**({"titles": {task: title}} if title else {})))
    found = {group.task: (group.task_title, group.task_name) for group in groups(load(runs))}
    assert found == {
        folder: ("Support tickets", "tickets"),
        "/x/mails": ("Mails (x/mails)", "x/mails"),
        "/y/mails": ("Mails (y/mails)", "y/mails"),
        "sst2": ("SST-2", "sst2"),
        "/z/unnamed": ("unnamed", "unnamed"),
    }
    assert groups(load(runs[:1]))[0].title == "Support tickets with SmolLM2-135M-Instruct"


def test_a_field_that_came_later_at_its_old_value_is_the_same_configuration(store):
    """Seeds of one setting are pooled also where an older program, which did not have the field, trained some."""
    record = store().record("lopt1", 10, 1)
    values = {name: value for name, value in migrations.SETTINGS.items() if value is not None}
    now = {**record, "config": {**record["config"], **values}}
    assert row(now).configuration == row(record).configuration
    assert row(record).metric == "accuracy"


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"placement": "prefix", "init": "uniform", "activation": "elu"}, True),
        ({"placement": "suffix"}, False),
        ({"alpha": 8.0}, False),
    ],
)
def test_an_option_that_came_later_at_its_old_value_is_the_same_configuration(store, options, same):
    record = store().record("lopt2", 10, 1)
    later = json.loads(json.dumps(record))
    later["config"]["options"] = options
    assert (row(later).configuration == row(record).configuration) is same
