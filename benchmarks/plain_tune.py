"""The baseline of `benchmarks/sweep.py`: a plain Ray Tune script, written as the documentation of Ray and PEFT teaches.

    python benchmarks/plain_tune.py --settings settings.json --out results.json

Each trial is a process with one CPU. It loads the tokenizer and the model, maps the tokenizer over the data set, and
trains PEFT's prompt tuning with Trainer, which evaluates and reports. ASHA stops trials and Optuna proposes learning
rates. The script imports nothing of this library.
"""

import argparse
import json
import os
from pathlib import Path


def train(config):
    """Train one trial."""
    import datasets
    import numpy as np
    import torch
    import transformers
    from peft import PromptTuningConfig, get_peft_model
    from ray import tune

    transformers.set_seed(0)
    length, label_words = config["length"], config["label_words"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(config["model"])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    label_ids = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in label_words]

    def encode(row):
        ids = tokenizer(row["text"], truncation=True, max_length=config["max_tokens"])["input_ids"]
        ids, labels = [*ids, label_ids[row["label"]]], [-100] * len(ids) + [label_ids[row["label"]]]
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}

    splits = datasets.load_dataset("json", data_files=config["files"])
    splits = splits.map(encode, remove_columns=["text", "label"])
    model = transformers.AutoModelForCausalLM.from_pretrained(config["model"])
    prompt_config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=length, prompt_tuning_init="RANDOM")
    model = get_peft_model(model, prompt_config)

    def choose_classes(logits, labels):
        """Return the label word with the highest logit for each row, so that Trainer need not keep all logits."""
        logits = logits[0] if isinstance(logits, tuple) else logits
        label_positions = (labels != -100).int().argmax(dim=1) + length - 1
        return logits[torch.arange(len(logits)), label_positions][:, label_ids].argmax(dim=1)

    def compute_accuracy(evaluation):
        predicted_ids = np.array(label_ids)[evaluation.predictions]
        return {"accuracy": float((evaluation.label_ids == predicted_ids[:, None]).any(axis=1).mean())}

    class Report(transformers.TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            tune.report({"accuracy": metrics["eval_accuracy"], "step": state.global_step})

    training_arguments = transformers.TrainingArguments(
        output_dir="trainer",
        per_device_train_batch_size=config["batch_size"],
        per_device_eval_batch_size=32,
        max_steps=config["max_steps"],
        eval_strategy="steps",
        eval_steps=config["eval_every"],
        learning_rate=config["learning_rate"],
        lr_scheduler_type="constant",
        optim="adafactor",
        bf16=config["bf16"],
        use_cpu=not torch.cuda.is_available(),
        label_names=["labels"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model,
        training_arguments,
        train_dataset=splits["train"],
        eval_dataset=splits["selection"],
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
        preprocess_logits_for_metrics=choose_classes,
        compute_metrics=compute_accuracy,
        callbacks=[Report()],
    )
    trainer.train()


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--settings", type=Path, required=True, help="JSON, written by sweep.py")
    parser.add_argument("--out", type=Path, required=True, help="JSON: steps and accuracies of every trial")
    options = parser.parse_args()
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    settings = json.loads(options.settings.read_text())
    rates, (lowest_rate, highest_rate) = settings.pop("rates"), settings.pop("range")
    grace_steps, reduction_factor = settings.pop("grace_steps"), settings.pop("reduction_factor")
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={**settings, "learning_rate": tune.loguniform(lowest_rate, highest_rate)},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=len(rates),
            search_alg=OptunaSearch(points_to_evaluate=[{"learning_rate": rate} for rate in rates]),
            scheduler=ASHAScheduler(
                time_attr="step",
                grace_period=grace_steps,
                reduction_factor=reduction_factor,
                max_t=settings["max_steps"],
            ),
        ),
        run_config=tune.RunConfig(storage_path=str(options.out.parent / "ray_results")),
    )
    trials = [
        {
            "learning_rate": result.config["learning_rate"],
            "steps": [int(step) for step in result.metrics_dataframe["step"]] if result.metrics else [],
            "accuracy": [float(value) for value in result.metrics_dataframe["accuracy"]] if result.metrics else [],
            "error": str(result.error) if result.error else None,
        }
        for result in tuner.fit()
    ]
    options.out.write_text(json.dumps(trials))


if __name__ == "__main__":
    main()
