"""orchctl, the operator's tool: one file per verb.

It speaks to orchd through the public API like any client; it never imports a daemon's rooms.
"""
