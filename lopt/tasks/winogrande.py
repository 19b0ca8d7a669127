"""WinoGrande: which of two options fills the gap in a sentence (Sakaguchi et al. 2020, size xl)?

The reported split is validation (1,267 rows), because the test labels are not public. DePT holds 1,000 training rows
out to select on: `--set selection_examples=1000 --set held_out_examples=1000`. The template for T5 has the form of
the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="winogrande",
    title="WinoGrande",
    hub=("allenai/winogrande", "winogrande_xl"),
    columns=("sentence", "option1", "option2"),
    classes=("1", "2"),
    label="answer",
    template="sentence: {sentence} option1: {option1} option2: {option2} {mask}",
    causal_template=(
        "{sentence} Question: Does the gap stand for {option1}, the first, or {option2}, the second? Answer:"
    ),
    label_words=(" first", " second"),
    cut_column="sentence",
    report_size=1267,
)
