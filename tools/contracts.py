"""Write what tables and shapes say as JSON and YAML, for readers that have no Python.

`contracts/metrics.json` from wire/metrics.py, `contracts/errors.json` from wire/errors.py,
`contracts/config.schema.json` from config/schema.py, `contracts/openapi/` by tools/openapi,
`specs/errors.md` by tools/errors_page.py, man pages and completions by tools/manual,
`.SRCINFO` by tools/srcinfo.py. The golden frames are written by hand and never by a program.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from attrs import asdict

from orchd.config import jsonschema
from orchd.wire.errors import TABLE
from orchd.wire.metrics import BUDGETS, METRICS
from tools import errors_page, manual, srcinfo
from tools.openapi.document import documents

FOLDER = Path(__file__).resolve().parents[1] / "contracts"


def metrics() -> object:
    """Return the metrics contract."""
    families = [
        {key: value for key, value in asdict(metric).items() if value or key == "labels"}
        for metric in METRICS
    ]
    return {"budgets": dict(BUDGETS), "families": families}


def errors() -> object:
    """Return the table of errors: kind -> row."""
    return {
        kind.value: {key: value for key, value in asdict(row).items() if value is not None}
        for kind, row in TABLE.items()
    }


def files() -> dict[Path, str]:
    """Return what the files should hold."""
    said = {"metrics.json": metrics(), "errors.json": errors()}
    return {
        **{FOLDER / name: json.dumps(value, indent=1) + "\n" for name, value in said.items()},
        FOLDER / "config.schema.json": jsonschema.text(),
        errors_page.FILE: errors_page.page(),
        **{FOLDER / "openapi" / f"{name}.yaml": text for name, text in documents().items()},
        **manual.files(),
        srcinfo.FILE: srcinfo.text(),
    }


def main() -> int:
    """Write the files."""
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
