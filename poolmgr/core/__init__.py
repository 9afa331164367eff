"""Decisions of one replica: its life, its slots, what fits, where an engine runs. Pure."""
