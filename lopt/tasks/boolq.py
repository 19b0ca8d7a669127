"""BoolQ: yes or no, from a passage (Clark et al. 2019, as packaged by SuperGLUE). Reported on validation (3,270).

T5's template is the papers'; the causal one follows GPT-3's (arXiv 2005.14165, appendix G).
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
    cut="passage",
    report_size=3270,
)
