"""Where engines are kept on this machine: one folder for each, the catalog and the logs beside.

    ID/            whole: it came here by one rename
    ID.part/       on its way; what is left of a kill is begun anew
    ID.lock        held, by the kernel, as long as somebody brings it
    catalog/       the records (orchd/catalog/engines.py)
    images/        podman's, for the system's pools (store.py)
    logs/          what the tools said, one file for each time

Removing the folder forgets all engines; nothing else knows of them [ORCH-3205].
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from orchd.config.folders import models_dir
from orchd.config.load import SYSTEM_FILE
from orchd.config.pool import Pool
from orchd.config.schema import Settings
from orchd.wire.engines import EngineEntry

SYSTEM = Path("/var/cache/orchd")


def cache_of(settings: Settings, pool: Pool, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this pool's engine: as configured, the unit's, the system's or our own.

    A relative one cannot be: the same folder has to be found from everywhere.
    """
    said = pool.provisioning.source.cache_dir
    if said is not None:
        return Path(said)
    if settings.source == SYSTEM_FILE and "CACHE_DIRECTORY" not in environ:
        return SYSTEM / "engines"  # whoever asks: the system's pools look there
    return models_dir(environ).with_name("engines")


def usable(entry: EngineEntry) -> bool:
    """Whether what the record speaks of is still here. Of an image only its runtime can tell."""
    if entry.image is not None:
        runs = entry.runtime is not None and os.access(entry.runtime, os.X_OK)
        return runs and (entry.store is None or Path(entry.store).is_dir())
    return bool(entry.artifacts) and os.access(entry.artifacts[0], os.X_OK)
