"""Yelp-2: is a review on Yelp positive (Zhang, Zhao and LeCun 2015)?

The reported split is test (38,000 rows). DePT holds 1,000 training rows out to select on: `--set
selection_examples=1000 --set held_out_examples=1000`. The template for T5 has the form of the papers' templates.
"""

from lopt.tasks import Task

SPEC = Task(
    name="yelp_2",
    title="Yelp-2",
    hub=("fancyzhx/yelp_polarity",),
    columns=("text",),
    classes=("negative", "positive"),
    template="sentence: {text} {mask}",
    causal_template="{text} It was",
    label_words=(" negative", " positive"),
    cut_column="text",
    report="test",
    report_size=38000,
)
