"""QNLI: does the sentence answer the question (Rajpurkar et al. 2016, as packaged by GLUE)?

The reported split is validation (5,463 rows). DePT holds 1,000 training rows out to select on: `--set
selection_examples=1000 --set held_out_examples=1000`. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="qnli",
    title="QNLI",
    hub=("nyu-mll/glue", "qnli"),
    columns=("question", "sentence"),
    classes=("entailment", "not_entailment"),
    template="question: {question} sentence: {sentence} {mask}",
    causal_template="{sentence} Question: Does this answer '{question}' Yes or no? Answer:",
    label_words=(" yes", " no"),
    cut_column="sentence",
    report_size=5463,
)
