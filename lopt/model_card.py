"""The model card beside an exported adapter: what it is, what it reads, how to use it, how it was trained."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt import backbones, methods
from lopt.artifact import Prompt
from lopt.backbones.seq2seq import SENTINEL
from lopt.config import TrialConfig, known_as
from lopt.data import most_tokens
from lopt.settings import METRICS

_CARD = """\
---
{front}
---

# {title} for {task}

{what}

- Base model: {base}; its weights are not in here
- Task: {task}; classes {classes}
- Parameters: {counts}
- Accuracy: {accuracy}

{exact}## Input

The text goes into this template by Python's `str.format`, stripped of white space at both ends:

    {indented}

{read} The class is that of the label word with the largest logit: {words}. Of each word the first token counts, its
leading space included. Of an input of more than {most:,} tokens cut the end of `{cut}`, never the template.

```python
import torch
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

adapter = "."  # this folder
base_model = {name!r}{remark}
tokenizer = AutoTokenizer.from_pretrained(base_model)
base = {auto}.from_pretrained(base_model, dtype=torch.{dtype})
model = PeftModel.from_pretrained(base, adapter).eval()

template = {template!r}
label_words = {label_words}
fields = {fields}

inputs = tokenizer(template.format(**fields), return_tensors="pt"){trimmed}
{call}
first_tokens = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in label_words.values()]
probabilities = logits[first_tokens].float().softmax(-1)
label = list(label_words)[int(probabilities.argmax())]
print(label, dict(zip(label_words, probabilities.tolist())))
```

## Training

{training}
"""


@dataclass(frozen=True)
class _Reading:
    """How the label of one kind of model is read, in words and as code."""

    auto: str
    words: str
    call: str


_CAUSAL = _Reading(
    "AutoModelForCausalLM",
    "The label is read at the last token of the template.",
    """\
with torch.no_grad():
    output = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
logits = output.logits[0, -1]  # at the last token; in a padded batch, at each row's last real one""",
)
_SEQ2SEQ = _Reading(
    "AutoModelForSeq2SeqLM",
    f"The decoder is given its start token and `{SENTINEL}`; the label is read at its second step.",
    f"""\
start = [base.config.decoder_start_token_id, tokenizer.convert_tokens_to_ids("{SENTINEL}")]
with torch.no_grad():
    output = model(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, decoder_input_ids=torch.tensor([start])
    )
logits = output.logits[0, 1]  # at the decoder's second step""",
)


_TRIMMED = """
for name in inputs:
    inputs[name] = inputs[name][:, :-{count}]  # without {end}, which the tokenizer appends"""


@dataclass(frozen=True)
class Base:
    """The base model as others know it: a name on the hub; or the name of a folder, whose place only they know."""

    name: str
    is_folder: bool


def base_of(config: TrialConfig) -> Base:
    """What to call a trial's backbone where this machine's folders are not."""
    name = config.backbone
    if name in backbones.names():
        return Base(backbones.facts(name).hub or name, is_folder=False)
    mirror = os.environ.get("LOPT_MODEL_DIR")
    in_mirror = mirror and not os.path.isabs(name) and (Path(mirror) / name / "config.json").is_file()
    path = Path(os.path.expanduser(name))
    if in_mirror or not (path.is_absolute() or name.startswith(".") or (path / "config.json").is_file()):
        return Base(name, is_folder=False)
    path = Path(os.path.abspath(path))
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # the hub's own cache
        return Base(path.parent.parent.name.removeprefix("models--").replace("--", "/"), is_folder=False)
    return Base(path.name, is_folder=True)


def model_card(prompt: Prompt, base: Base) -> str:
    """The card of an exported prompt."""
    config, backbone = prompt.config, prompt.backbone
    task, title, facts = prompt.task, methods.get(config.method).title, prompt.facts
    template = backbone.complete(config.template or "")
    words = dict(zip(task.classes, config.label_words or (), strict=True))
    reading = _SEQ2SEQ if backbone.model.config.is_encoder_decoder else _CAUSAL
    end = getattr(backbone, "left_out", ())
    return _CARD.format(
        front=_front(prompt, base),
        title=title,
        task=task.title,
        what=_what(prompt, title),
        base=_base(base, config, backbone.revision),
        exact=f"{facts.exact}\n\n" if facts.exact else "",
        name=base.name,
        remark="  # the folder of the base model: give its path" if base.is_folder else "",
        classes=", ".join(task.classes),
        counts=_counts(prompt),
        accuracy=_accuracy(prompt.recorded),
        template=template,
        indented=template.replace("\n", "\n    "),
        read=reading.words,
        words=", ".join(f"`{word!r}` {name}" for name, word in words.items()),
        most=most_tokens(config, backbone),
        cut=task.cut,
        auto=reading.auto,
        dtype="bfloat16" if config.precision == "bf16" else "float32",
        label_words=repr(words),
        fields=repr({column: f"The {column} goes here." for column in task.columns}),
        trimmed=_TRIMMED.format(count=len(end), end=" ".join(end)) if end else "",
        call=reading.call,
        training=_training(config),
    )


def _base(base: Base, config: TrialConfig, revision: str) -> str:
    if base.is_folder:
        return f"the model in the folder `{base.name}` of the machine that trained ({revision})"
    ours = "" if config.backbone == base.name else f"lopt's backbone {Path(config.backbone).name}, "
    return f"`{base.name}` ({ours}{revision})"


def _front(prompt: Prompt, base: Base) -> str:
    """The YAML at the head of the card; JSON's strings and lists are YAML's."""
    licence = prompt.facts.licence
    kind = "lora" if prompt.soft_prompt is None else "prompt-tuning"
    entries = {
        "base_model": None if base.is_folder else base.name,  # the hub takes no other
        "library_name": "peft",
        "license": licence.lower() if licence not in ("unknown", "none") else None,
        "tags": sorted({kind, prompt.config.method, "text-classification"}),
    }
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in entries.items() if value is not None)


def _what(prompt: Prompt, title: str) -> str:
    config = prompt.config
    if prompt.soft_prompt is None:
        return f"LoRA of rank {config.rank}, alpha {config.options['alpha']:g}, on a frozen language model."
    rank = f" of rank {config.rank}" if config.rank else ""
    return (
        f"A soft prompt of {config.length} virtual tokens for a frozen language model, trained as {title}{rank} and "
        "written as PEFT's prompt tuning. It stands before everything, a BOS token included."
    )


def _counts(prompt: Prompt) -> str:
    trained = sum(tensor.numel() for tensor in prompt.factors.values())
    if prompt.soft_prompt is None:
        return f"{trained:,} trained, all of them here"
    length, width = prompt.soft_prompt.prompt.shape
    return f"{trained:,} trained, written out as {length} × {width} = {length * width:,}"


def _accuracy(scores: Mapping[str, Any]) -> str:
    if scores.get("test_accuracy") is None:
        return "not recorded"
    said, count, whole = f"{scores['test_accuracy']:.1%}", scores.get("test_n"), scores.get("test_split_size")
    if count is not None:
        part = "" if whole in (None, count) else f" of the {whole:,}"
        said += f" on {count:,}{part} examples of `{scores.get('test_split')}`, one training run"
    if scores.get("majority_accuracy") is not None:
        said += f"; always naming the commonest class: {scores['majority_accuracy']:.1%}"
    return said


def _training(config: TrialConfig) -> str:
    settings = {
        "method": config.method,
        "length": config.length,
        "rank": config.rank,
        "options": ", ".join(f"{name} {known_as(str(value))}" for name, value in config.options.items()) or None,
        "optimiser": f"{config.optimizer}, rate {config.learning_rate:g}, weight decay {config.weight_decay:g}",
        "schedule": f"{config.schedule}, warm-up {config.warmup:g} of the steps",
        "steps": f"{config.max_steps:,} of batch {config.batch_size}, gradient norm clipped at {config.clip_norm:g}",
        "dropout": config.dropout or None,
        "selection": f"the best {METRICS[config.metric]} of the evaluations at every {config.eval_every} steps, "
        "on held-out data",
        "examples of each class": config.shots,
        "training examples": config.train_examples,
        "precision of the base": config.precision,
        "seed": f"{config.seed}, of the data {config.data_seed}",
        "data": f"{Path(config.task).name}, revision {config.data_revision}",
        "key": config.key,
    }
    return "\n".join(f"- {name}: {value}" for name, value in settings.items() if value is not None)
