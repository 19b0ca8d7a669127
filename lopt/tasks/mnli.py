"""MNLI: does the premise entail the hypothesis (Williams et al. 2018, as packaged by GLUE)?

The reported split is validation_matched (9,815 rows). DePT holds 1,000 training rows out to select on: `--set
selection_examples=1000 --set held_out_examples=1000`. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="mnli",
    title="MNLI",
    hub=("nyu-mll/glue", "mnli"),
    columns=("premise", "hypothesis"),
    classes=("entailment", "neutral", "contradiction"),
    template="premise: {premise} hypothesis: {hypothesis} {mask}",
    causal_template="{premise} Question: {hypothesis} Yes, no, or maybe? Answer:",
    label_words=(" yes", " maybe", " no"),
    cut_column="premise",
    report="validation_matched",
    report_size=9815,
)
