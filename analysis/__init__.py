"""From a results store to tables, figures and one page; imports neither torch nor ray."""
