"""The model card of an exported adapter: what it is, what it reads, how to use it, and how it was trained."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lopt import backbones, methods, metrics
from lopt.artifact import Prompt
from lopt.backbones.seq2seq import SENTINEL
from lopt.config import TrialConfig, name_without_path
from lopt.data import max_input_tokens

_CARD_TEMPLATE = """\
---
{front_matter}
---

# {title} for {task}

{summary_text}

- Base model: {base_text}; its weights are not included
- Task: {task}; classes {classes_text}
- Parameters: {counts_text}
- Accuracy: {accuracy_text}

{how_to_get_weights}## Input

Strip the text of white space at both ends, and insert it into this template with Python's `str.format`:

    {indented_template}

{reading} The predicted class is the one whose label word has the largest logit: {words_text}. Only the first token of
a word counts; the leading space is part of the word. If an input has more than {token_limit:,} tokens, cut the end of
`{cut_column}`, never the template.

```python
import torch
from peft import PeftModel
from transformers import {auto_class}, AutoTokenizer

adapter = "."  # this folder
base_model = {base_name!r}{folder_comment}
tokenizer = AutoTokenizer.from_pretrained(base_model)
base = {auto_class}.from_pretrained(base_model, dtype=torch.{dtype})
model = PeftModel.from_pretrained(base, adapter).eval()

template = {template!r}
label_words = {label_words}
fields = {fields}

inputs = tokenizer(template.format(**fields), return_tensors="pt"){trim_code}
{logits_code}
first_tokens = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in label_words.values()]
probabilities = logits[first_tokens].float().softmax(-1)
label = list(label_words)[int(probabilities.argmax())]
print(label, dict(zip(label_words, probabilities.tolist())))
```

## Training

{training_text}
"""


@dataclass(frozen=True)
class _LabelReading:
    """How the label is read from one kind of model.

    Attributes:
        auto_class: the class of transformers that loads the model.
        sentence: the sentence of the card that says where the label is read.
        code: the lines of the card's snippet that compute the logits.
    """

    auto_class: str
    sentence: str
    code: str


_CAUSAL_READING = _LabelReading(
    "AutoModelForCausalLM",
    "The label is read at the last token of the template.",
    """\
with torch.no_grad():
    output = model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
logits = output.logits[0, -1]  # at the last token; in a padded batch, at each row's last real one""",
)
_SEQ2SEQ_READING = _LabelReading(
    "AutoModelForSeq2SeqLM",
    f"The decoder starts with its start token and `{SENTINEL}`; the label is read at its second step.",
    f"""\
start = [base.config.decoder_start_token_id, tokenizer.convert_tokens_to_ids("{SENTINEL}")]
with torch.no_grad():
    output = model(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, decoder_input_ids=torch.tensor([start])
    )
logits = output.logits[0, 1]  # at the decoder's second step""",
)


_TRIM_TEMPLATE = """
for name in inputs:
    inputs[name] = inputs[name][:, :-{appended_count}]  # without {appended_text}, which the tokenizer appends"""


@dataclass(frozen=True)
class BaseModel:
    """The base model as users of the adapter know it.

    Attributes:
        name: its name on the hub, or the name of its folder. The path is left out, because each user has another one.
        is_folder: whether `name` is the name of a folder.
    """

    name: str
    is_folder: bool


def find_base_model(config: TrialConfig) -> BaseModel:
    """Return what a trial's backbone is called on machines that do not have this machine's folders."""
    name = config.backbone
    if name in backbones.names():
        return BaseModel(backbones.facts(name).hub_name or name, is_folder=False)
    mirror = os.environ.get("LOPT_MODEL_DIR")
    is_in_mirror = mirror and not os.path.isabs(name) and (Path(mirror) / name / "config.json").is_file()
    path = Path(os.path.expanduser(name))
    if is_in_mirror or not (path.is_absolute() or name.startswith(".") or (path / "config.json").is_file()):
        return BaseModel(name, is_folder=False)
    path = Path(os.path.abspath(path))
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # the hub's own cache
        return BaseModel(path.parent.parent.name.removeprefix("models--").replace("--", "/"), is_folder=False)
    return BaseModel(path.name, is_folder=True)


def model_card(prompt: Prompt, base_model: BaseModel) -> str:
    """Return the text of the card for an exported prompt."""
    config, backbone = prompt.config, prompt.backbone
    task, title, facts = prompt.task, methods.get(config.method).title, prompt.facts
    template = backbone.fill_template(config.template or "")
    label_words = dict(zip(task.classes, config.label_words or (), strict=True))
    label_reading = _SEQ2SEQ_READING if backbone.model.config.is_encoder_decoder else _CAUSAL_READING
    appended_tokens = getattr(backbone, "left_out_tokens", ())
    return _CARD_TEMPLATE.format(
        front_matter=_front_matter(prompt, base_model),
        title=title,
        task=task.title,
        summary_text=_summary_text(prompt, title),
        base_text=_base_model_text(base_model, config, backbone.revision),
        how_to_get_weights=f"{facts.same_weights_note}\n\n" if facts.same_weights_note else "",
        base_name=base_model.name,
        folder_comment="  # the folder of the base model: give its path" if base_model.is_folder else "",
        classes_text=", ".join(task.classes),
        counts_text=_counts_text(prompt),
        accuracy_text=_accuracy_text(prompt.results),
        template=template,
        indented_template=template.replace("\n", "\n    "),
        reading=label_reading.sentence,
        words_text=", ".join(f"`{word!r}` {name}" for name, word in label_words.items()),
        token_limit=max_input_tokens(config, backbone),
        cut_column=task.cut_column,
        auto_class=label_reading.auto_class,
        dtype="bfloat16" if config.precision == "bf16" else "float32",
        label_words=repr(label_words),
        fields=repr({column: f"The {column} goes here." for column in task.columns}),
        trim_code=_trim_code(appended_tokens),
        logits_code=label_reading.code,
        training_text=_training_text(config),
    )


def _trim_code(appended_tokens: Sequence[str]) -> str:
    """Return the code that removes the tokens that the tokenizer appends to every text."""
    if not appended_tokens:
        return ""
    return _TRIM_TEMPLATE.format(appended_count=len(appended_tokens), appended_text=" ".join(appended_tokens))


def _base_model_text(base_model: BaseModel, config: TrialConfig, revision: str) -> str:
    if base_model.is_folder:
        return f"the model in the folder `{base_model.name}` of the machine that trained ({revision})"
    name_in_lopt = "" if config.backbone == base_model.name else f"lopt's backbone {Path(config.backbone).name}, "
    return f"`{base_model.name}` ({name_in_lopt}{revision})"


def _front_matter(prompt: Prompt, base_model: BaseModel) -> str:
    """Return the YAML at the head of the card. It is written as JSON strings and lists, which are valid YAML."""
    licence = prompt.facts.licence
    adapter_kind = "lora" if prompt.soft_prompt is None else "prompt-tuning"
    entries = {
        "base_model": None if base_model.is_folder else base_model.name,  # the hub accepts no other names
        "library_name": "peft",
        "license": licence.lower() if licence not in ("unknown", "none") else None,
        "tags": sorted({adapter_kind, prompt.config.method, "text-classification"}),
    }
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in entries.items() if value is not None)


def _summary_text(prompt: Prompt, title: str) -> str:
    config = prompt.config
    if prompt.soft_prompt is None:
        return f"LoRA of rank {config.rank}, alpha {config.options['alpha']:g}, on a frozen language model."
    rank_text = f" of rank {config.rank}" if config.rank else ""
    return (
        f"A soft prompt of {config.length} virtual tokens for a frozen language model, trained as {title}{rank_text} "
        "and written as PEFT's prompt tuning. It is put before the whole input, even before a BOS token."
    )


def _counts_text(prompt: Prompt) -> str:
    trained_count = sum(tensor.numel() for tensor in prompt.factors.values())
    if prompt.soft_prompt is None:
        return f"{trained_count:,} trained, all of them included"
    length, width = prompt.soft_prompt.prompt.shape
    return f"{trained_count:,} trained, written out as {length} × {width} = {length * width:,}"


def _accuracy_text(results: Mapping[str, Any]) -> str:
    if results.get("test_accuracy") is None:
        return "not recorded"
    text = f"{results['test_accuracy']:.1%}"
    scored_count, split_size = results.get("test_n"), results.get("test_split_size")
    if scored_count is not None:
        split_text = "" if split_size in (None, scored_count) else f" of the {split_size:,}"
        text += f" on {scored_count:,}{split_text} examples of `{results.get('test_split')}`, one training run"
    if results.get("majority_accuracy") is not None:
        text += f"; the majority class alone: {results['majority_accuracy']:.1%}"
    return text


def _training_text(config: TrialConfig) -> str:
    settings = {
        "method": config.method,
        "length": config.length,
        "rank": config.rank,
        "options": ", ".join(f"{name} {name_without_path(str(it))}" for name, it in config.options.items()) or None,
        "optimiser": f"{config.optimizer}, rate {config.learning_rate:g}, weight decay {config.weight_decay:g}",
        "schedule": f"{config.schedule}, warm-up {config.warmup:g} of the steps",
        "steps": f"{config.max_steps:,} of batch {config.batch_size}, gradient norm clipped at {config.clip_norm:g}",
        "dropout": config.dropout or None,
        "selection": f"the best {metrics.title(str(config.metric))} on held-out data, of the evaluations at every "
        f"{config.eval_every} steps",
        "examples of each class": config.shots,
        "training examples": config.train_examples,
        "precision of the base": config.precision,
        "seed": f"{config.seed}; of the data: {config.data_seed}",
        "data": f"{Path(config.task).name}, revision {config.data_revision}",
        "key": config.key,
    }
    return "\n".join(f"- {name}: {value}" for name, value in settings.items() if value is not None)
