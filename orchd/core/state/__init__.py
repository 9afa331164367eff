"""All that the core keeps: the world, its pools, replicas, tasks and sessions, and their tables."""
