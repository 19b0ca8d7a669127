"""BoolQ: a yes/no question about a passage (Clark et al. 2019, as packaged by SuperGLUE).

The reported split is validation (3,270 rows).

The template for T5 is that of the papers. The template for causal models follows GPT-3's (arXiv 2005.14165,
appendix G).
"""

from lopt.tasks import Task

SPEC = Task(
    name="boolq",
    title="BoolQ",
    hub=("aps/super_glue", "boolq"),
    columns=("question", "passage"),
    classes=("False", "True"),
    template="hypothesis: {question}. premise: {passage} {mask}",
    causal_template="{passage} Question: {question}? Answer:",
    label_words=(" no", " yes"),
    cut_column="passage",
    report_size=3270,
)
