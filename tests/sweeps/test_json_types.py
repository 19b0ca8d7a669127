"""JSON files of a run with values of a wrong type. They are named, and refused or set aside, without a traceback."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import checkpoint
from sweeps.results.lock import _held_error, _parse_holder
from sweeps.results.store import Store
from tests.analysis.test_analysis_damage import JSON, value_paths, with_value
from tests.bad_input import error_line, fixed
from tests.sweeps.test_store_damage import RUN, finished_run, out, record_files, sweep  # noqa: F401  # two are fixtures

VALUES = ["[]", "3", '"a"', "null", "true", "[[]]", "{}", "[null]", '[{"a": []}]']


@pytest.mark.parametrize("text", VALUES)
def test_a_record_that_is_not_an_object_is_set_aside_with_a_message(out, text):  # noqa: F811
    file = record_files(out)[0]
    file.write_text(text)
    code, stdout, stderr = sweep(out)
    assert (code, stderr) == (0, "")
    (line,) = [line for line in stdout.splitlines() if "is damaged" in line]
    assert "a record is" in line or text == "{}"
    assert "attribute" not in line and "not iterable" not in line
    assert file.with_name(f"{file.name}.damaged").read_text() == text


@pytest.mark.parametrize("name", ["config", "provenance", "evaluations", "options"])
@pytest.mark.parametrize("value", ["a", 3, None, [1], True])
def test_a_field_of_a_wrong_type_is_named(out, name, value):  # noqa: F811
    file = record_files(out)[0]
    record = json.loads(file.read_text())
    (record["config"] if name == "options" else record)[name] = value
    file.write_text(json.dumps(record))
    _, stdout, _ = sweep(out)
    (line,) = [line for line in stdout.splitlines() if "is damaged" in line]
    assert name in line or name == "evaluations"
    assert "attribute" not in line and "not iterable" not in line and "NoneType" not in line


@pytest.mark.parametrize("name", ["manifest.json", "baselines.json"])
@pytest.mark.parametrize("text", [text for text in VALUES if text != "{}"])
def test_a_manifest_or_baselines_file_of_a_wrong_type_is_refused(out, name, text):  # noqa: F811
    if (name, text) == ("baselines.json", "[]"):
        pytest.skip("an empty list is valid: the baseline is scored again")
    file = out / RUN / name
    file.write_text(text)
    line = error_line(*sweep(out))
    assert f"{file} is damaged (" in line and ("is a " in line or "is null" in line or "true or false" in line)
    assert file.read_text() == text


@fixed(60)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_in_a_manifest_or_baselines_file(finished_run, tmp_path, data, value):  # noqa: F811
    """A command goes on, or it names the damaged file in one line and changes nothing."""
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished_run, folder)
    file = folder / RUN / data.draw(st.sampled_from(["manifest.json", "baselines.json"]))
    original = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(value_paths(original))))
    file.write_text(json.dumps(with_value(original, path, value)))
    before = {record: record.read_bytes() for record in record_files(folder)}
    code, stdout, stderr = sweep(folder, trials=data.draw(st.sampled_from([1, 1, 1, 2])))
    assert {record: record.read_bytes() for record in before} == before
    if code == 2:
        line = error_line(code, stdout, stderr)
        assert file.name in line or "other settings" in line
    else:
        assert code == 0


@pytest.mark.parametrize("text", [*VALUES[:-1], '{"0123456789abcdef": 5}', "{", '{"0123456789abcdef": {"step": "a"}}'])
def test_damaged_audits_are_set_aside_with_a_message(tmp_path, capsys, text):
    store = Store(tmp_path, "run")
    store.folder.mkdir()
    (store.folder / "audits.json").write_text(text)
    if text == "{}":
        assert store.audits() == {}
        return
    assert store.audits() == {}
    assert "audits.json is damaged" in capsys.readouterr().out
    assert (store.folder / "audits.json.damaged").read_text() == text
    assert store.audits() == {} and not capsys.readouterr().out


@pytest.mark.parametrize("text", [*VALUES, '{"command": 5}', '{"command": [5, null]}', '{"process": []}', "[" * 9999])
def test_a_damaged_holder_is_called_another_command(text):
    message = str(_held_error("run", _parse_holder(text)))
    assert message.startswith("run 'run' is being worked on by another command") and len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "header",
    [*VALUES, '{"__metadata__": []}', '{"__metadata__": {"trial": "[]"}}', '{"__metadata__": {"trial": 5}}', "[" * 9999,
     '{"__metadata__": {"trial": "{\\"config\\": [], \\"phase\\": \\"search\\", \\"cell\\": \\"a\\"}"}}'],
)  # fmt: skip
def test_a_checkpoint_with_a_damaged_header_is_left_out(tmp_path, header):
    store = Store(tmp_path, "run")
    store.checkpoints.mkdir(parents=True)
    content = len(header).to_bytes(8, "little") + header.encode()
    path = store.checkpoints / f"{'0' * 16}-000000004.safetensors"
    path.write_bytes(content)
    assert store.interrupted_trials() == []
    if "config" not in header:
        with pytest.raises(ValueError, match=r"\S"):
            checkpoint.read_description(path)


def test_damaged_records_of_other_runs_are_left_out(out):  # noqa: F811
    for file in record_files(out)[:2]:
        file.write_text("[]")
    for option in ("--reuse", "--warm-start"):
        code, stdout, _ = sweep(out, "--name", f"new{option}", option, RUN)
        assert code == 0
        assert stdout.count("is damaged (a record is a list, not an object); left out") == 2
