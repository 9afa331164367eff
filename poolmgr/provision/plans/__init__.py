"""Bringing an engine, decided before anything is done: facts in, steps and problems out. Pure."""
