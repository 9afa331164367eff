"""poolmgr: one process per pool and device mask; one model in one engine, supervised and streamed.

Rooms: core (pure), dialects (engine wire formats, sans-IO), engines (one adapter each),
provision (how an engine comes to be there), edge (sockets, NVML, child processes).
"""
