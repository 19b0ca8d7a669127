"""Damaged or changed prompts and hostile inputs get the recorded answer, or an error of one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lopt.__main__ import main
from lopt.artifact import Prompt
from lopt.config import TrialConfig
from lopt.soft_prompt import SoftPrompt
from tests.bad_input import error_line, fixed, junk, refused, run_command, texts


def save_prompt(folder, **more):
    values = {"method": "prompt_tuning", "task": "toy", "backbone": "tiny", "length": 3, "precision": "fp32", **more}
    matrix = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    return Prompt(TrialConfig(**values), {"X": matrix}, SoftPrompt(prompt=matrix)).save(folder)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return save_prompt(tmp_path_factory.mktemp("toy"))


@fixed(60)
@given(text=texts)
def test_any_text_gets_an_answer_or_one_line(toy, text):
    code, out, err = run_command(main, "predict", "--prompt", toy, f"--text={text}", "--json")
    if code:
        assert "--text" in error_line(code, out, err)
        return
    answer = json.loads(out)
    assert answer["input"]["text"] == text.strip()
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", "[]", '{"premise": "a"}', '{"premise": 5, "hypothesis": "b"}', "9" * 5000]
)
def test_a_text_that_is_not_an_object_of_the_columns_is_refused(tmp_path, text):
    prompt = save_prompt(tmp_path / "rte", task="rte")
    line = refused(main, "predict", "--prompt", prompt, "--text", text)
    assert "premise" in line or "hypothesis" in line


@fixed(80)
@given(name=st.sampled_from(["config", "classes", "key", "format", "test_accuracy", "method", "length", "label_words"]),
       value=junk)  # fmt: skip
def test_any_value_in_the_description_gives_an_answer_or_one_line(toy, tmp_path, name, value):
    folder = tmp_path / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(toy, folder)
    description = json.loads((folder / "prompt.json").read_text())
    try:
        (description if name in description else description["config"])[name] = value
        (folder / "prompt.json").write_text(json.dumps(description))
    except TypeError:  # the value is not valid JSON
        return
    code, out, err = run_command(main, "predict", "--prompt", folder, "--text", "warm", "--json")
    if code:
        error_line(code, out, err)
    else:
        assert json.loads(out)["label"] in ("negative", "positive")


X = torch.zeros(3, 32)


@pytest.mark.parametrize(
    "tensors",
    [
        {"prompt": X},
        {"factors.X": X},
        {"prompt": X, "factors.X": X + 1},
        {"prompt": X * torch.nan, "factors.X": X * torch.nan},
        {"prompt": X[0], "factors.X": X[0]},
        {"prompt": X.sum(), "factors.X": X.sum()},
        {"prompt": X[:2], "factors.X": X[:2]},
        {"prompt": X[:, :16], "factors.X": X[:, :16]},
        {"prompt": X.int(), "factors.X": X.bool()},
        {"prompt": X[None], "factors.X": X[None]},
        {"prompt": X, "factors.X": X, "update": X},
        {},
    ],
    ids=lambda tensors: ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()),
)
def test_tensors_that_do_not_belong_together_are_refused(toy, tmp_path, tensors):
    shutil.copytree(toy, tmp_path / "copy")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "copy" / "prompt.safetensors")
    line = refused(main, "predict", "--prompt", tmp_path / "copy", "--text", "warm")
    assert "is damaged" in line or "wide, but backbone tiny is 32" in line
