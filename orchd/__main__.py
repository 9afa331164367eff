"""`python -m orchd` is the program orchd: for `orchctl up` and for running from a checkout."""

from __future__ import annotations

import sys

from orchd.daemon import main

sys.exit(main())
