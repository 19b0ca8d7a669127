"""Plugins: each module of a package defines one `SPEC`. A plugin is found by its file and needs no entry in a list."""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

# For each setting, the names that other programs and papers give to it.
_OTHER_NAMES = {
    setting: other_names.split()
    for setting, other_names in {
        "learning_rate": "lr rate learningrate step_size",
        "max_steps": "epochs epoch num_epochs num_train_epochs max_epochs steps num_steps train_steps iterations",
        "batch_size": "bs batch batchsize train_batch_size per_device_train_batch_size",
        "eval_every": "eval_steps eval_interval eval_freq evaluation_steps",
        "backbone": "model model_name base_model model_name_or_path model_id lm",
        "task": "dataset dataset_name data benchmark",
        "method": "peft_type technique algorithm",
        "length": "n m num_virtual_tokens virtual_tokens prompt_length prompt_len prompt_size num_tokens soft_tokens",
        "rank": "r lora_r lora_rank low_rank",
        "alpha": "lora_alpha",
        "weight_decay": "wd decay l2",
        "optimizer": "optim optimiser opt",
        "schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule",
        "warmup": "warmup_ratio warmup_steps num_warmup_steps",
        "clip_norm": "max_grad_norm grad_clip gradient_clip_val gradient_clipping clip",
        "max_tokens": "max_length max_len max_seq_length max_seq_len seq_len max_source_length",
        "train_examples": "num_train max_train_samples train_size",
        "test_examples": "max_test_samples max_eval_samples test_size",
        "shots": "k shot num_shots few_shot k_shot",
        "precision": "dtype torch_dtype fp16 bf16 half",
        "label_words": "verbalizer verbalizers labels",
        "template": "prompt prompt_template pattern",
        "placement": "position prompt_position",
        "init": "initialization initialisation prompt_tuning_init",
        "confirm_seeds": "seed seeds num_seeds n_seeds",
        "trials": "num_trials n_trials num_samples",
        "grace_steps": "grace grace_period min_steps",
        "reduction_factor": "eta",
    }.items()
}


def did_you_mean(name: object, valid: Iterable[str]) -> str:
    """Return " Did you mean …?" with the valid name that `name` most likely means, or "" if none is likely."""
    valid, normalised_name = list(valid), str(name).lower().replace("-", "_")
    candidates = [
        setting for setting, other_names in _OTHER_NAMES.items() if normalised_name in other_names and setting in valid
    ]
    candidates += difflib.get_close_matches(str(name), valid, n=1, cutoff=0.5)
    return f" Did you mean {candidates[0]!r}?" if candidates else ""


def names(package: str) -> list[str]:
    """Return the sorted names of a package's plugins. The names are those of the files, so nothing is imported."""
    if package in sys.modules:
        folders = sys.modules[package].__path__
    else:
        package_spec = importlib.util.find_spec(package)
        folders = (package_spec and package_spec.submodule_search_locations) or []
    return sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))


@cache
def plugins(package: str) -> dict[str, Any]:
    """Return the `SPEC` of every module of `package`, by the name of the plugin, sorted by name.

    Modules whose names begin with `_` are helpers. Each process imports the modules only once.

    Raises:
        ValueError: the `SPEC`s of two modules have the same name, or a module has no `SPEC`.
        ImportError: the package or a module cannot be imported.
    """
    specs: dict[str, Any] = {}
    importlib.import_module(package)
    for name in names(package):
        spec = getattr(importlib.import_module(f"{package}.{name}"), "SPEC", None)
        if spec is None:
            raise ValueError(f"{package}.{name} has no SPEC: define it, or begin the name of the file with _")
        if spec.name in specs:
            raise ValueError(f"two modules of {package} are both named {spec.name!r}: rename one of them")
        specs[spec.name] = spec
    return dict(sorted(specs.items()))


def find(package: str, name: object, kind: str) -> Any:
    """Return the `SPEC` called `name`. The ValueError for an unknown name lists the valid names and the nearest one."""
    specs = plugins(package)
    if not isinstance(name, str) or name not in specs:
        raise ValueError(f"unknown {kind} {name!r}; valid: {', '.join(specs)}.{did_you_mean(name, specs)}")
    return specs[name]
