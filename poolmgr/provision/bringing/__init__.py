"""Doing a plan: one way for each mode, one engine at a time."""
