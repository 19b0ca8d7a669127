"""SciTail: does the premise entail the hypothesis, in science questions (Khot et al. 2018)?

The reported split is test (2,126 rows), as in DePT. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="scitail",
    title="SciTail",
    hub=("allenai/scitail", "tsv_format"),
    columns=("premise", "hypothesis"),
    classes=("entails", "neutral"),
    template="premise: {premise} hypothesis: {hypothesis} {mask}",
    causal_template="{premise} Question: {hypothesis} Yes or no? Answer:",
    label_words=(" yes", " no"),
    cut_column="premise",
    report="test",
    report_size=2126,
)
