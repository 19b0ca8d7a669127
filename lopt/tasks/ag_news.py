"""AG News: topic of a news item (Zhang, Zhao and LeCun 2015). The reported split is test (7,600 rows)."""

from lopt.tasks import Task

SPEC = Task(
    name="ag_news",
    title="AGNews",
    hub=("fancyzhx/ag_news",),
    columns=("text",),
    classes=("World", "Sports", "Business", "Sci/Tech"),
    template="{text} It was about",
    label_words=(" politics", " sports", " business", " technology"),
    cut_column="text",
    report="test",
    report_size=7600,
)
