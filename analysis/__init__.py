"""Turn a results store into tables, figures and one page. Nothing here imports torch or ray."""
