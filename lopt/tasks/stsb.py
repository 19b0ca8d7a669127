"""STS-B: how similar are two sentences, from 0 to 5 (Cer et al. 2017, as packaged by GLUE)?

The answer is a number. Training reads the nearest of six number words; the prediction is the expected number under
the probabilities of these words. The reported split is validation (1,500 rows). GLUE's metrics are the correlations
of Pearson, which selects, and of Spearman. DePT selects on one half of validation and reports on the other: `--set
holdout=validation`. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="stsb",
    title="STS-B",
    hub=("nyu-mll/glue", "stsb"),
    columns=("sentence1", "sentence2"),
    classes=("0", "1", "2", "3", "4", "5"),
    template="sentence1: {sentence1} sentence2: {sentence2} {mask}",
    causal_template="{sentence1} Question: How similar is the sentence '{sentence2}', from zero to five? Answer:",
    label_words=(" zero", " one", " two", " three", " four", " five"),
    cut_column="sentence1",
    report_size=1500,
    metric="pearson",
    reports=("spearman",),
    class_numbers=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
)
