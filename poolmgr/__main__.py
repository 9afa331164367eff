"""`python -m poolmgr POOL:MASK`: the same program as `poolmgr`."""

from __future__ import annotations

import sys

from poolmgr.daemon import main

if __name__ == "__main__":
    sys.exit(main())
