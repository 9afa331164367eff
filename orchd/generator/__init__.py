"""The systemd generator: the configuration file as units, before any daemon runs.

What those units are instances of is in units/; what may stand in the file is orchd.config's.
"""
