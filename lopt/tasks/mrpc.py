"""MRPC: do two sentences mean the same (Dolan and Brockett 2005, as packaged by GLUE)?

The reported split is validation (408 rows). GLUE's metrics are F1 of the class `equivalent`, which selects, and
accuracy. DePT selects on one half of validation and reports on the other: `--set holdout=validation`. The template
for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="mrpc",
    title="MRPC",
    hub=("nyu-mll/glue", "mrpc"),
    columns=("sentence1", "sentence2"),
    classes=("not_equivalent", "equivalent"),
    template="sentence1: {sentence1} sentence2: {sentence2} {mask}",
    causal_template="{sentence1} Question: Does the sentence '{sentence2}' mean the same? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="sentence1",
    report_size=408,
    metric="f1",
    reports=("accuracy",),
)
