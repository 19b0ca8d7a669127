"""Reading the store: pooling, damage, old failures, and which run is the newest."""

import json

import pytest

from analysis.cells import groups, short_names
from analysis.load import load
from analysis.notes import notes, warnings
from analysis.records import trial_from_record
from analysis.runs import ReportError, find_named_runs, find_runs
from lopt import migrations


def test_the_frame_has_one_row_for_each_trial(full_run):
    frame = load([full_run]).frame
    assert len(frame) == 50 and frame["key"].is_unique
    assert {"phase", "status", "method", "rank", "trainable_parameters", "test_accuracy"} <= set(frame.columns)


def test_pooling_counts_a_key_once_and_prefers_a_record_that_did_not_fail(store):
    a, b = store(name="a"), store(name="b")
    record = a.confirm("lopt1", 10, 1, 0.8)
    b.put(record)
    failed = a.search("lopt1", 10, 2, status="failed", error={"type": "E", "message": ""}, selection_accuracy=None)
    b.put(failed | {"status": "complete", "error": None})
    b.confirm("lopt1", 10, 1, 0.9, config__seed=2)
    results = load([a.write(), b.write()])
    assert (len(results.trials), results.repeated_count) == (3, 2)
    assert all(trial.status == "complete" for trial in results.trials)
    assert groups(results)[0].find("lopt1", 10, 1).accuracy.seeds == 2


def test_seeds_of_two_configurations_are_not_averaged(store):
    run = store()
    run.confirm("lopt1", 10, 1, 0.9, selection_accuracy=0.7, config__learning_rate=0.3)
    run.confirm("lopt1", 10, 1, 0.8, selection_accuracy=0.8, config__learning_rate=0.1)
    cell = groups(load([run.write()]))[0].find("lopt1", 10, 1)
    assert (cell.accuracy.mean, cell.accuracy.seeds) == (0.8, 1)


def test_the_search_decides_which_of_several_confirmed_settings_counts(store):
    """More search trials gave another winner, whose fresh seeds happen to do worse than those of the earlier winner."""
    run = store()
    for learning_rate, search_accuracy, confirm_accuracy in ((0.3, 0.8, 0.9), (0.1, 0.9, 0.7)):
        run.search("lopt1", 10, 1, selection_accuracy=search_accuracy, config__learning_rate=learning_rate)
        for seed in (2, 3):
            run.confirm(
                "lopt1", 10, 1, confirm_accuracy - 0.1, selection_accuracy=confirm_accuracy,
                config__learning_rate=learning_rate, config__seed=seed,
            )  # fmt: skip
    results = load([run.write()])
    cell = groups(results)[0].find("lopt1", 10, 1)
    assert {trial.learning_rate for trial in cell.confirmed_trials} == {0.1}
    assert (cell.accuracy.mean, cell.accuracy.seeds) == (pytest.approx(0.6), 2)
    all_notes = " ".join(notes(results, groups(results)))
    assert "n=10 r=1: 2 settings have confirmed trials" in all_notes and "at learning rate 0.1" in all_notes
    assert "better setting" not in " ".join(warnings(results, groups(results)))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"selection_accuracy": 0.8}, {"selection_accuracy": 0.9, "status": "stopped"}),
        ({"selection_accuracy": 0.8, "selection_loss": 0.4}, {"selection_accuracy": 0.8, "selection_loss": 0.5}),
        ({"selection_accuracy": 0.8, "key": "f" * 16}, {"selection_accuracy": 0.8, "key": "0" * 16}),
    ],
)
def test_the_winner_is_the_trial_that_the_sweep_confirms(store, first, second):
    run = store()
    run.search("lopt1", 10, 1, config__learning_rate=0.3, **first)
    run.search("lopt1", 10, 1, config__learning_rate=0.1, **second)
    run.confirm("lopt1", 10, 1, 0.7, config__learning_rate=0.3)
    run.confirm("lopt1", 10, 1, 0.9, config__learning_rate=0.1)
    assert groups(load([run.write()]))[0].find("lopt1", 10, 1).accuracy.mean == 0.7


def test_a_winner_without_a_confirmed_trial_is_named(store):
    run = store()
    run.search("lopt1", 10, 1, selection_accuracy=0.8, config__learning_rate=0.3)
    run.search("lopt1", 10, 1, selection_accuracy=0.9, config__learning_rate=0.1)
    run.confirm("lopt1", 10, 1, 0.7, config__learning_rate=0.3)
    results = load([run.write(status="stopped")])
    assert groups(results)[0].find("lopt1", 10, 1).accuracy.mean == 0.7
    assert "better setting than the confirmed one" in " ".join(warnings(results, groups(results)))


def with_values(text, **values):
    return json.dumps(json.loads(text) | values)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "[]", "not a record: it should be a JSON object, but is a list"),
        (lambda text: "5", "not a record: it should be a JSON object, but is a number"),
        (lambda text: "null", "not a record: it should be a JSON object, but is null"),
        (lambda text: '"a"', "not a record: it should be a JSON object, but is a text"),
        (lambda text: with_values(text, provenance=[1]), "`provenance` is [1], not an object"),
        (lambda text: with_values(text, error="no"), "`error` is 'no', not an object"),
        (lambda text: with_values(text, config=[]), "`config` is [], not an object"),
        (lambda text: with_values(text, evaluations={"a": 1}), "`evaluations` is {'a': 1}, not a list of objects"),
        (lambda text: with_values(text, evaluations=[5]), "`evaluations` is [5], not a list of objects"),
        (lambda text: with_values(text, evaluations=[{"predictions": {}}]), "`predictions` is {}, not a text"),
        (lambda text: with_values(text, truncated=7), "`truncated` is 7, not an object"),
        (lambda text: with_values(text, truncated={"test": "many"}), "`test` is 'many', not a number"),
        (lambda text: with_values(text, provenance={"reused_from": []}), "`reused_from` is [], not a text"),
        (lambda text: text.replace('"schema_version": 3', '"schema_version": 9'), "`schema_version` is 9"),
        (lambda text: text.replace('"selection_accuracy": 0.8,', '"selection_accuracy": 80,'), "not a fraction"),
        (lambda text: with_values(text, status="done"), "'done', not complete, stopped, diverged or failed"),
    ],
)
def test_a_damaged_record_is_named_and_skipped(store, damage, reason):
    run = store()
    run.search("lopt1", 10, 1)
    file = run.path / "trials" / f"{run.search('lopt1', 10, 2)['key']}.json"
    file.write_text(damage(file.read_text()))
    results = load([run.write()])
    assert len(results.trials) == 1
    (line,) = results.unreadable_files
    assert file.name in line and reason in line


def test_old_failures_and_files_being_written_are_not_trials(store):
    run = store()
    record = run.search("lopt1", 10, 1)
    (run.path / "trials" / f"{record['key']}.failed-1.json").write_text(json.dumps(record))
    (run.path / "trials" / ".half.json").write_text("{")
    results = load([run.write()])
    assert (len(results.trials), results.superseded_count, results.unreadable_files) == (1, 1, ())


def test_the_newest_run_is_found_by_updated_at(store, tmp_path):
    for name, year in (("old", 2001), ("new", 2003), ("middle", 2002)):
        store(name=name).write(updated_at=f"{year}-01-01T00:00:00+00:00")
    root = tmp_path / "results"
    assert [path.name for path in find_runs(root)] == ["new", "middle", "old"]
    assert [path.name for path in find_named_runs([], root)] == ["new"]
    assert [path.name for path in find_named_runs(["old", str(root / "old")], root)] == ["old"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("[]", "not a manifest: it should be a JSON object, but is a list"),
        ("3", "not a manifest: it should be a JSON object, but is a number"),
        ({"space": {"rungs": 5}}, "`rungs` is 5, not a list of whole numbers"),
        ({"space": {"rungs": ["a"]}}, "`rungs` is ['a'], not a list of whole numbers"),
        ({"space": {"cells": {"a": 1}}}, "`cells` is {'a': 1}, not a list of objects"),
        ({"space": {"cells": [5]}}, "`cells` is [5], not a list of objects"),
        ({"space": {"cells": [{"config": 5}]}}, "`config` is 5, not an object"),
        ({"space": {"base": [1]}}, "`base` is [1], not an object"),
        ({"left_out": 5}, "`left_out` is 5, not a list of texts"),
        ({"left_out": [[]]}, "`left_out` is [[]], not a list of texts"),
        ({"elapsed_s": "abc"}, "`elapsed_s` is 'abc', not a number"),
    ],
)
def test_a_manifest_of_another_form_is_an_error_in_plain_words(store, change, reason):
    path = store().write()
    file = path / "manifest.json"
    file.write_text(change if isinstance(change, str) else with_values(file.read_text(), **change))
    with pytest.raises(ReportError) as error:
        load([path])
    assert f"manifest.json cannot be read ({reason})" in str(error.value)


def test_a_manifest_without_its_optional_entries_is_read(store):
    path = store().write(provenance=None, left_out=None, elapsed_s=float("nan"))
    (run,) = load([path]).runs
    assert run.elapsed_s is None and not run.left_out_keys
    assert warnings(load([path]), groups(load([path])))


@pytest.mark.parametrize("name", ["audits.json", "probe.json", "baselines.json"])
@pytest.mark.parametrize("content", ["{", "5", '"a"', '{"a": 5}', "[5]", "null", '{"a": {"step": "x"}}'])
def test_a_damaged_file_beside_the_records_is_named(store, name, content):
    run = store()
    run.confirm("lopt1", 10, 1, 0.8)
    path = run.write()
    (path / name).write_text(content)
    results = load([path])
    (line,) = results.unreadable_files
    assert line.startswith(f"synthetic-run/{name}: not ") or ", not a" in line
    assert "Error" not in line
    assert len(results.trials) == 1
    (warning,) = [warning for warning in warnings(results, groups(results)) if name in warning]
    assert "1 file could not be read" in warning


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1}', "\xff"])
def test_a_damaged_manifest_is_an_error(store, text):
    path = store().write()
    (path / "manifest.json").write_text(text)
    with pytest.raises(ReportError, match=r"manifest\.json cannot be read .* repeat the sweep's command"):
        load([path])


def test_nan_reads_as_missing(store):
    record = store().record("lopt1", 10, 1, selection_accuracy=None, wall_time_s=float("nan"))
    assert trial_from_record(record).wall_time_s is None


def test_new_and_unknown_fields_do_not_change_a_trial(store):
    old = store().record("lopt1", 10, 1)
    new = json.loads(json.dumps(old))
    new["config"] |= {"warmup": None, "shots": None, "holdout": None}
    for evaluation in new["evaluations"]:
        evaluation |= {"selection_macro_f1": 0.7, "of_tomorrow": [1]}
    # The configuration is also the same, so that its seeds are pooled.
    assert trial_from_record(new | {"of_tomorrow": {}}) == trial_from_record(old)
    new["config"] |= {"warmup": 500, "holdout": "halve", "shots": 16, "of_tomorrow": {"a": 1}}
    assert trial_from_record(new).shots == 16
    assert trial_from_record(new).configuration != trial_from_record(old).configuration


def test_few_shot_runs_are_a_group_of_their_own(store):
    run = store(cells=[("lopt1", 10, 1)])
    run.confirm("lopt1", 10, 1, 0.9)
    for shots in (4, 16):
        run.confirm("lopt1", 10, 1, 0.7, config__shots=shots)
    assert {group.title for group in groups(load([run.write()]))} == {
        "movie_snippets with SmolLM2-135M-Instruct",
        "movie_snippets with SmolLM2-135M-Instruct (4-shot)",
        "movie_snippets with SmolLM2-135M-Instruct (16-shot)",
    }


def test_a_planned_cell_whose_size_was_searched_has_the_confirmed_size(store):
    run = store(cells=[("dept", None, None)])
    run.search("dept", 80, 15, cell="dept")
    run.confirm("dept", 40, 45, 0.8, cell="dept")
    (group,) = groups(load([run.write()]))
    assert {(cell.length, cell.rank, cell.is_planned) for cell in group.cells} == {(80, 15, False), (40, 45, True)}
    assert [cell.label for cell in group.confirmed_cells] == ["DePT n=40 r=45"]


def test_methods_without_a_length_and_unknown_methods_have_labels(store):
    run = store(cells=[("lora", None, 8), ("fine_tuning", None, None), ("mine", 5, None)])
    (group,) = groups(load([run.write()]))
    assert [cell.label for cell in group.cells] == ["LoRA r=8", "Fine-tuning", "mine n=5"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/data/me/tickets", "sst2"], ["tickets", "sst2"]),
        (["/data/me/tickets/"], ["tickets"]),
        (["/data/me/tickets", "/data/you/tickets"], ["me/tickets", "you/tickets"]),
        (["/data/sst2", "sst2"], ["data/sst2", "sst2"]),
        (["/tickets", "tickets", "/"], ["/tickets", "tickets", "/"]),
    ],
)
def test_folders_are_called_by_their_last_part(paths, names):
    assert list(short_names(paths).values()) == names


def test_backbones_of_the_hub_keep_their_owner(store):
    names = {"/models/gpt2-large": "gpt2-large", "google-t5/t5-base": "google-t5/t5-base", "./t5/": "t5"}
    paths = [store(name=f"run{i}", backbone=backbone).write() for i, backbone in enumerate(names)]
    assert {group.backbone: group.backbone_name for group in groups(load(paths))} == names


def test_a_trial_that_predicts_one_class_at_every_evaluation_is_stuck(store):
    record = store().record("lopt1", 10, 1)
    assert not trial_from_record(record).is_stuck
    for evaluation in record["evaluations"]:
        evaluation["top_class_share"] = 1.0
    assert trial_from_record(record).is_stuck
    assert not trial_from_record(record | {"evaluations": []}).is_stuck


def test_tasks_keep_their_titles_after_their_folders_are_gone(store):
    folder = "/no/such/folder/tickets"
    runs = []
    for name, task, title in (
        ("a", folder, "Support tickets"), ("b", "/x/mails", "Mails"), ("c", "/y/mails", "Mails"),
        ("d", "sst2", "SST-2"), ("e", "/z/unnamed", None),
    ):  # fmt: skip
        run = store(name=name, task=task, cells=[("lopt1", 10, 1)])
        run.confirm("lopt1", 10, 1, 0.8)
        runs.append(run.write(**({"titles": {task: title}} if title else {})))
    titles_and_names = {group.task: (group.task_title, group.task_name) for group in groups(load(runs))}
    assert titles_and_names == {
        folder: ("Support tickets", "tickets"),
        "/x/mails": ("Mails (x/mails)", "x/mails"),
        "/y/mails": ("Mails (y/mails)", "y/mails"),
        "sst2": ("SST-2", "sst2"),
        "/z/unnamed": ("unnamed", "unnamed"),
    }
    assert groups(load(runs[:1]))[0].title == "Support tickets with SmolLM2-135M-Instruct"


def test_a_later_field_at_its_old_value_leaves_the_configuration_the_same(store):
    """Seeds of one setting are pooled although an older program, which did not have the field, trained some of them."""
    record = store().record("lopt1", 10, 1)
    values = {name: value for name, value in migrations.LATER_SETTINGS.items() if value is not None}
    later_record = {**record, "config": {**record["config"], **values}}
    assert trial_from_record(later_record).configuration == trial_from_record(record).configuration
    assert trial_from_record(record).metric == "accuracy"


@pytest.mark.parametrize(
    ("options", "is_same"),
    [
        ({"placement": "prefix", "init": "uniform", "activation": "elu"}, True),
        ({"placement": "suffix"}, False),
        ({"alpha": 8.0}, False),
    ],
)
def test_a_later_option_at_its_old_value_leaves_the_configuration_the_same(store, options, is_same):
    record = store().record("lopt2", 10, 1)
    later = json.loads(json.dumps(record))
    later["config"]["options"] = options
    assert (trial_from_record(later).configuration == trial_from_record(record).configuration) is is_same


def test_the_score_on_the_whole_held_out_part_takes_the_place_of_the_best_evaluation(store):
    held_out = {"held_out_accuracy": 0.72, "held_out_macro_f1": 0.7, "held_out_loss": 0.55, "held_out_n": 800}
    trial = trial_from_record(store().record("lopt1", 10, 2, selection_accuracy=0.9, **held_out, schema_version=4))
    assert (trial.selection_score, trial.selection_accuracy, trial.selection_loss, trial.selection_n) == (
        0.72, 0.72, 0.55, 800,
    )  # fmt: skip
    without = trial_from_record(store().record("lopt1", 10, 2, selection_accuracy=0.9))
    assert (without.selection_score, without.selection_n) == (0.9, 128)
