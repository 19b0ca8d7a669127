"""WiC: does a word have the same meaning in two sentences (Pilehvar and Camacho-Collados 2019, from SuperGLUE)?

The reported split is validation (638 rows).

The template for T5 is that of the papers. The template for causal models follows GPT-3's (arXiv 2005.14165,
appendix G).
"""

from lopt.tasks import Task

SPEC = Task(
    name="wic",
    title="WiC",
    hub=("aps/super_glue", "wic"),
    columns=("word", "sentence1", "sentence2"),
    classes=("False", "True"),
    template="sentence1: {sentence1} sentence2: {sentence2} word: {word} {mask}",
    causal_template=(
        "{sentence1} {sentence2} Question: Is the word '{word}' used in the same way in the two sentences above? "
        "Answer:"
    ),
    label_words=(" no", " yes"),
    cut_column="sentence1",
    report_size=638,
)
