"""SST-2: sentiment of film-review sentences (Socher et al. 2013, as packaged by GLUE).

The template is that of the paper's code base. The reported split is validation (872 rows), because the test labels
are not public.
"""

from lopt.tasks import Task

SPEC = Task(
    name="sst2",
    title="SST-2",
    hub=("nyu-mll/glue", "sst2"),
    columns=("sentence",),
    classes=("negative", "positive"),
    template="{sentence} It was",
    label_words=(" negative", " positive"),
    cut_column="sentence",
    report="validation",
    report_size=872,
)
