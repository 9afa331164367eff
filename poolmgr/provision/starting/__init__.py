"""From an engine that is here to the command that poolmgr runs, or whom it attaches to."""
