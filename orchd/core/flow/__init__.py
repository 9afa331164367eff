"""A task's way: admitted, queued, placed, run, ended; what is told and refused on it."""
