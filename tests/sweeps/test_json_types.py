"""A run's JSON files that hold something else: named, refused or set aside, never a traceback."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopt import checkpoint
from sweeps.results.lock import _parsed, _refusal
from sweeps.results.store import Store
from sweeps.run import main
from tests.analysis.test_analysis_damage import JSON, places, with_value
from tests.bad_input import called, fixed, line_of
from tests.sweeps.test_store_damage import RUN, made, out, records, sweep  # noqa: F401  # two are fixtures

KINDS = ["[]", "3", '"a"', "null", "true", "[[]]", "{}", "[null]", '[{"a": []}]']


@pytest.mark.parametrize("text", KINDS)
def test_a_record_of_another_kind_is_said_to_be_no_record(out, text):  # noqa: F811
    file = records(out)[0]
    file.write_text(text)
    code, said, err = sweep(out)
    assert (code, err) == (0, "")
    (line,) = [line for line in said.splitlines() if "is damaged" in line]
    assert "a record is" in line or text == "{}"
    assert "attribute" not in line and "not iterable" not in line
    assert file.with_name(f"{file.name}.damaged").read_text() == text


@pytest.mark.parametrize("name", ["config", "provenance", "evaluations", "options"])
@pytest.mark.parametrize("value", ["a", 3, None, [1], True])
def test_a_part_of_another_kind_is_named(out, name, value):  # noqa: F811
    file = records(out)[0]
    record = json.loads(file.read_text())
    (record["config"] if name == "options" else record)[name] = value
    file.write_text(json.dumps(record))
    _, said, _ = sweep(out)
    (line,) = [line for line in said.splitlines() if "is damaged" in line]
    assert name in line or name == "evaluations"
    assert "attribute" not in line and "not iterable" not in line and "NoneType" not in line


@pytest.mark.parametrize("name", ["manifest.json", "baselines.json"])
@pytest.mark.parametrize("text", [text for text in KINDS if text != "{}"])
def test_a_manifest_or_baselines_of_another_kind_are_refused(out, name, text):  # noqa: F811
    if (name, text) == ("baselines.json", "[]"):
        pytest.skip("no baseline yet, which is scored again")
    file = out / RUN / name
    file.write_text(text)
    line = line_of(*sweep(out))
    assert f"{file} is damaged (" in line and ("is a " in line or "is null" in line or "true or false" in line)
    assert file.read_text() == text


@fixed(60)
@given(data=st.data(), value=JSON)
def test_any_value_anywhere_beside_the_records(made, tmp_path, data, value):  # noqa: F811
    """A command goes on, or says in one line which file is damaged and touches nothing."""
    folder = tmp_path / "out"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, folder)
    file = folder / RUN / data.draw(st.sampled_from(["manifest.json", "baselines.json"]))
    whole = json.loads(file.read_text())
    path = data.draw(st.sampled_from(list(places(whole))))
    file.write_text(json.dumps(with_value(whole, path, value)))
    before = {record: record.read_bytes() for record in records(folder)}
    code, said, err = sweep(folder, trials=data.draw(st.sampled_from([1, 1, 1, 2])))
    assert {record: record.read_bytes() for record in before} == before
    if code == 2:
        line = line_of(code, said, err)
        assert file.name in line or "other settings" in line
    else:
        assert code == 0


@pytest.mark.parametrize("text", [*KINDS[:-1], '{"0123456789abcdef": 5}', "{", '{"0123456789abcdef": {"step": "a"}}'])
def test_damaged_audits_are_set_aside_with_a_line(tmp_path, capsys, text):
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


@pytest.mark.parametrize("text", [*KINDS, '{"command": 5}', '{"command": [5, null]}', '{"process": []}', "[" * 9999])
def test_a_holder_of_another_kind_is_another_command(text):
    said = str(_refusal("run", _parsed(text)))
    assert said.startswith("run 'run' is being worked on by another command") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "header",
    [*KINDS, '{"__metadata__": []}', '{"__metadata__": {"trial": "[]"}}', '{"__metadata__": {"trial": 5}}', "[" * 9999,
     '{"__metadata__": {"trial": "{\\"config\\": [], \\"phase\\": \\"search\\", \\"cell\\": \\"a\\"}"}}'],
)  # fmt: skip
def test_a_checkpoint_of_another_kind_is_left_out(tmp_path, header):
    store = Store(tmp_path, "run")
    store.checkpoints.mkdir(parents=True)
    content = len(header).to_bytes(8, "little") + header.encode()
    path = store.checkpoints / f"{'0' * 16}-000000004.safetensors"
    path.write_bytes(content)
    assert store.interrupted() == []
    if "config" not in header:
        with pytest.raises(ValueError, match=r"\S"):
            checkpoint.describe(path)


def test_other_runs_with_records_of_another_kind_can_be_read_from(out):  # noqa: F811
    for file in records(out)[:2]:
        file.write_text("[]")
    for flag in ("--reuse", "--warm-start"):
        code, said, _ = called(main, "--space", "smoke", "--local-mode", "--set", "max_steps=4", "--set", "trials=1",
                               "--out", out, "--name", f"new{flag}", flag, RUN)  # fmt: skip
        assert code == 0
        assert said.count("is damaged (a record is a list, not an object); left out") == 2
