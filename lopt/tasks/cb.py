"""CB, CommitmentBank: does the writer hold the hypothesis true (de Marneffe et al. 2019, SuperGLUE)? Reported on
validation (56): 95 % noise of one run is ±9 points.

T5's template is the papers'; the causal one follows GPT-3's (arXiv 2005.14165, appendix G).
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
    cut="premise",
    report_size=56,
)
