"""orchd: the front daemon of the suite, what both daemons share, and the operator's tool.

Rooms (specs/01-architecture.md says who may import whom): wire, core, config, kit, edge, cli.
"""

__version__ = "0.1.0"
