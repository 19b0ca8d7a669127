"""Low-rank prompt tuning of frozen language models.

Most programs need only these four names. Importing this package imports neither torch nor transformers:

    from lopt import TrialConfig, train, load_prompt, count_parameters

    count_parameters(method="lopt1", length=10, rank=2, width=1280)   # 2580
    record = train(TrialConfig(method="lopt1", task="movie_snippets", length=10, rank=2,
                               learning_rate=0.1, max_steps=60, eval_every=20))
    prompt = load_prompt("results/<run>/artifacts/<key>")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lopt.artifact import load_prompt
    from lopt.config import TrialConfig
    from lopt.methods import count_parameters
    from lopt.train_alone import train

__version__ = "0.1.0"
__all__ = ["TrialConfig", "count_parameters", "load_prompt", "train"]

_MODULE_BY_NAME = {
    "TrialConfig": "lopt.config",
    "count_parameters": "lopt.methods",
    "load_prompt": "lopt.artifact",
    "train": "lopt.train_alone",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'lopt' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULE_BY_NAME[name]), name)
    globals()[name] = value
    return value
