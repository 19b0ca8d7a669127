"""WNLI: does the first sentence entail the second, in which a pronoun is replaced (Levesque et al. 2012, from GLUE)?

The reported split is validation. It has only 71 rows, so the 95 % interval of one run is about ±12 points. DePT
selects on one half of validation and reports on the other: `--set holdout=validation`. The template for T5 has the
form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="wnli",
    title="WNLI",
    hub=("nyu-mll/glue", "wnli"),
    columns=("sentence1", "sentence2"),
    classes=("not_entailment", "entailment"),
    template="sentence1: {sentence1} sentence2: {sentence2} {mask}",
    causal_template="{sentence1} Question: {sentence2} Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="sentence1",
    report_size=71,
)
