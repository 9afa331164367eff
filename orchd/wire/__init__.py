"""Formats: bytes <-> frozen attrs classes, sans-IO. The one place that defines a shape or frame.

Nothing here opens a socket, reads a clock or logs. Both daemons, the CLI and the tests import it.
"""
