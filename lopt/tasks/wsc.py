"""WSC: does the pronoun stand for the noun (Levesque et al. 2012, as packaged by SuperGLUE, wsc.fixed)?

The reported split is validation. It has only 104 rows, so the 95 % interval of one run is about ±10 points. DePT
selects on one half of validation and reports on the other: `--set holdout=validation`. The template for T5 has the
form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="wsc",
    title="WSC",
    hub=("aps/super_glue", "wsc.fixed"),
    columns=("text", "span1_text", "span2_text"),
    classes=("False", "True"),
    template="sentence: {text} pronoun: {span2_text} noun: {span1_text} {mask}",
    causal_template="{text} Question: Does '{span2_text}' stand for '{span1_text}' here? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="text",
    report_size=104,
)
