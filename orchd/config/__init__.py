"""Configuration: the schema of the one TOML file, loading by precedence, its JSON Schema.

What the settings lead to is decided elsewhere; nothing here opens a socket or starts a process.
"""
