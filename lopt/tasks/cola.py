"""CoLA: is a sentence acceptable English (Warstadt et al. 2019, as packaged by GLUE)?

The reported split is validation (1,043 rows). GLUE's metric is Matthews' correlation. DePT selects on one half of
validation and reports on the other: `--set holdout=validation`. The template for T5 has the form of the papers'
templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="cola",
    title="CoLA",
    hub=("nyu-mll/glue", "cola"),
    columns=("sentence",),
    classes=("unacceptable", "acceptable"),
    template="sentence: {sentence} {mask}",
    causal_template="{sentence} Question: Is this sentence grammatical? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="sentence",
    report_size=1043,
    metric="matthews",
    reports=("accuracy",),
)
