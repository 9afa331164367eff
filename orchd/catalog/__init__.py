"""Models and artifacts on disk: what is kept, in which order it is written, what is allowed in.

Only files.py touches the disk, and it blocks: the edge runs it in threads. No clock, no trio.
"""
