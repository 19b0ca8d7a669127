"""MultiRC: is this a right answer to the question on the paragraph (Khashabi et al. 2018, from SuperGLUE)?

The reported split is validation (4,848 answers to 953 questions on 83 paragraphs). SuperGLUE's metrics are F1a, over
all answers, which selects, and the exact match by question. Answers on one paragraph are not independent, so
intervals take paragraphs as units, and the parts of the data have whole paragraphs or questions. DePT selects on one
half of validation and reports on the other: `--set holdout=validation`. The template for T5 has the form of the
papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="multirc",
    title="MultiRC",
    hub=("aps/super_glue", "multirc"),
    columns=("paragraph", "question", "answer"),
    classes=("False", "True"),
    template="question: {question} answer: {answer} paragraph: {paragraph} {mask}",
    causal_template="{paragraph} Question: {question} Is '{answer}' a right answer? Yes or no? Answer:",
    label_words=(" no", " yes"),
    cut_column="paragraph",
    report_size=4848,
    metric="f1a",
    reports=("exact_match", "accuracy"),
    groups=("idx.paragraph", "idx.question"),
)
