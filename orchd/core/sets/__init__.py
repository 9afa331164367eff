"""What happens to the replicas of a pool: heard of, drained, given another model."""
