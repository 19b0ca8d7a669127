"""RTE: does the premise entail the hypothesis (Dagan et al. 2006 and later, as packaged by SuperGLUE)?

The reported split is validation (277 rows).

The template for T5 is that of the papers. The template for causal models follows GPT-3's (arXiv 2005.14165,
appendix G).
"""

from lopt.tasks import Task

SPEC = Task(
    name="rte",
    title="RTE",
    hub=("aps/super_glue", "rte"),
    columns=("premise", "hypothesis"),
    classes=("entailment", "not_entailment"),
    template="sentence1: {premise} sentence2: {hypothesis} {mask}",
    causal_template="{premise} Question: {hypothesis} Yes or no? Answer:",
    label_words=(" yes", " no"),
    cut_column="premise",
    report_size=277,
)
