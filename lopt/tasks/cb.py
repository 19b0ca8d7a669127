"""CB, CommitmentBank: does the writer hold the hypothesis true (de Marneffe et al. 2019, as packaged by SuperGLUE)?

The reported split is validation. It has only 56 rows, so the 95 % interval of one run is about ±9 points.

The template for T5 is that of the papers. The template for causal models follows GPT-3's (arXiv 2005.14165,
appendix G).
"""

from lopt.tasks import Task

SPEC = Task(
    name="cb",
    title="CB",
    hub=("aps/super_glue", "cb"),
    columns=("premise", "hypothesis"),
    classes=("entailment", "contradiction", "neutral"),
    template="hypothesis: {hypothesis}. premise: {premise} {mask}",
    causal_template="{premise} Question: {hypothesis} Yes, no, or maybe? Answer:",
    label_words=(" yes", " no", " maybe"),
    cut_column="premise",
    report_size=56,
)
