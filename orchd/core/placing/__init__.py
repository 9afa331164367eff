"""Which replica runs a task: facts in, a choice and its reasons out. Knows no pool and no task."""
