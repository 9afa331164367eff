"""Where a poolmgr meets the world: its socket and link, the engine's process and HTTP, NVML."""
