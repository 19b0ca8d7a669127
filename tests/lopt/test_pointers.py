"""A file that git-lfs has not fetched is refused in one line, whatever the file should hold."""

from __future__ import annotations

import shutil

import pytest

from lopt import backbones
from lopt.__main__ import main as command
from lopt.config import TrialConfig
from lopt.examples import load_split
from lopt.files import refuse_lfs_pointer
from lopt.tasks import Task
from sweeps.run import main as sweep
from tests.bad_input import refused, run_command

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
EXPECTED_WORDS = ("is a git-lfs pointer", "git lfs pull")


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_pointer_in_a_model_is_refused(folders, tmp_path, family, name):
    shutil.copytree(folders[family], tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=r"is a git-lfs pointer.*git lfs pull") as caught:
        backbones.load(str(tmp_path / "model"), "fp32")
    assert str(tmp_path / "model" / name) in str(caught.value)
    settings = ["--space", "smoke", "--local-mode", "--out", tmp_path, "--set", f"backbone={tmp_path / 'model'}"]
    error_lines = [line for line in run_command(sweep, *settings)[2].splitlines() if line.startswith("error: ")]
    assert all(word in error_lines[0] for word in (name, *EXPECTED_WORDS))


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_pointer_in_place_of_rows_is_refused(tmp_path, monkeypatch, suffix):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / f"train.{suffix}").write_bytes(POINTER)
    from lopt.rows import read_rows

    with pytest.raises(ValueError, match="is a git-lfs pointer"):
        read_rows(tmp_path / "toy" / f"train.{suffix}")
    if suffix == "parquet":
        monkeypatch.setenv("LOPT_DATA_DIR", str(tmp_path))
        task = Task(
            name="toy", title="t", columns=("a",), classes=("b", "c"), template="{a}", label_words=(), cut_column="a"
        )
        with pytest.raises(ValueError, match="is a git-lfs pointer"):
            load_split(task, "train")


@pytest.mark.parametrize("name", ["prompt.safetensors", "prompt.json"])
def test_a_pointer_in_a_trained_prompt_is_refused(tmp_path, name):
    import torch

    from lopt.artifact import Prompt
    from lopt.soft_prompt import SoftPrompt

    config = TrialConfig(method="prompt_tuning", task="toy", backbone="tiny", length=1, precision="fp32")
    X = torch.zeros(1, 32)
    prompt = Prompt(config, {"X": X}, SoftPrompt(prompt=X)).save(tmp_path / "prompt")
    (prompt / name).write_bytes(POINTER)
    refused(command, "predict", "--prompt", prompt, "--text", "warm", words=[name, *EXPECTED_WORDS])


def test_a_file_that_is_not_a_pointer_passes(tmp_path):
    (tmp_path / "text").write_bytes(b"about " + POINTER)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "long").write_bytes(POINTER * 20)
    for name in ("text", "empty", "long", "nowhere"):
        refuse_lfs_pointer(tmp_path / name)
