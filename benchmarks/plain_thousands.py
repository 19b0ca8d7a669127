"""The baseline of `benchmarks/thousands.py`: plain Ray Tune with OptunaSearch and trials that compute nothing.

    python benchmarks/plain_thousands.py --trials 1000 --concurrent 5 --out ends.json

Processes are reused and Tune's loggers and frequent snapshots are turned off, as its documentation advises for many
short trials. The script imports nothing of this library.
"""

import argparse
import json
import os
import time
from pathlib import Path


def train(config):
    from ray import tune

    for _ in range(2):
        tune.report({"loss": (config["x"] - 0.3) ** 2 + config["n"]})


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--concurrent", type=int, required=True, help="trials at once")
    parser.add_argument("--out", type=Path, required=True, help="JSON: when each trial has ended, in seconds")
    options = parser.parse_args()
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_GLOBAL_CHECKPOINT_S": "3600"}
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    ended_at = []

    class Clock(tune.Callback):
        def on_trial_complete(self, iteration, trials, trial, **info):
            ended_at.append(time.time())

    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tune.Tuner(
        tune.with_resources(train, {"cpu": os.cpu_count() / options.concurrent}),
        param_space={"x": tune.loguniform(1e-3, 1.0), "n": tune.randint(1, 9)},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=OptunaSearch(),
            num_samples=options.trials,
            max_concurrent_trials=options.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(options.out.parent / "ray_results"), verbose=0, callbacks=[Clock()]),
    ).fit()
    options.out.write_text(json.dumps(ended_at))


if __name__ == "__main__":
    main()
