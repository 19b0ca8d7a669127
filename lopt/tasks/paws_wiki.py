"""PAWS-Wiki: are two sentences with nearly the same words paraphrases (Zhang et al. 2019)?

The reported split is test (8,000 rows), as in DePT. F1 of the class `paraphrase` is reported beside accuracy. The
template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="paws_wiki",
    title="PAWS-Wiki",
    hub=("google-research-datasets/paws", "labeled_final"),
    columns=("sentence1", "sentence2"),
    classes=("not_paraphrase", "paraphrase"),
    template="sentence1: {sentence1} sentence2: {sentence2} {mask}",
    causal_template="{sentence1} Question: Does the sentence '{sentence2}' mean the same? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="sentence1",
    report="test",
    report_size=8000,
    reports=("f1",),
)
