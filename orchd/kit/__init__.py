"""What both daemons and the tool need at their edge: sockets, HTTP/1.1, notify, log, run.

It knows trio and systemd, and of ours only `orchd.wire`: no pools, no tasks, no configuration.
"""
