"""Which device node a GPU has, as the driver says it in /proc: NVML would be too slow to load here.

Standard library only: this runs at every daemon-reload.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

FOLDER: Final = Path("/proc/driver/nvidia/gpus")
_MINOR: Final = re.compile(r"^Device Minor:\s*(\d+)\s*$", re.MULTILINE)


def minors(folder: Path = FOLDER) -> tuple[int, ...]:
    """Return the minor number of each GPU's node, by NVML's index.

    NVML counts GPUs by their PCI address, and so are the folders named. Empty when the driver is
    not loaded, as at boot, or says something else: then a GPU's index stands for its minor.
    """
    found = []
    try:
        for gpu in sorted(folder.iterdir()):
            said = _MINOR.search((gpu / "information").read_text(encoding="utf-8"))
            if said is None:
                return ()
            found.append(int(said[1]))
    except (OSError, ValueError):
        return ()
    return tuple(found)
