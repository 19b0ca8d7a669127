"""QQP: do two questions from Quora ask the same (Iyer et al. 2017, as packaged by GLUE)?

The reported split is validation (40,430 rows). GLUE's metrics are F1 of the class `duplicate`, which selects, and
accuracy. DePT holds 1,000 training rows out to select on: `--set selection_examples=1000 --set
held_out_examples=1000`. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="qqp",
    title="QQP",
    hub=("nyu-mll/glue", "qqp"),
    columns=("question1", "question2"),
    classes=("not_duplicate", "duplicate"),
    template="question1: {question1} question2: {question2} {mask}",
    causal_template="{question1} Question: Does '{question2}' ask the same? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="question1",
    report_size=40430,
    metric="f1",
    reports=("accuracy",),
)
