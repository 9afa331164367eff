"""A certificate for tests, made by the openssl program; trust in it is given explicitly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def make_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Return a self-signed certificate for localhost and `names`, and its key. Skips without
    openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program")
    known = ",".join(["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2",
            "-subj", "/CN=localhost", "-addext", f"subjectAltName={known}",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key
