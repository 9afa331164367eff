"""Debian's archive as the host sees it: which mirror, which keyring.

Here: reading the host's own sources, so that test material comes from where the host's packages
come from. Not here: what is fetched from it (rootfs.py, llama.py) and installing (setup.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a deb822 file (`*.sources`), keys in lower case."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", paragraph, re.MULTILINE)
        yield {key.lower(): value.strip() for key, value in fields}


def mirrors(sources: Path = SOURCES) -> Iterator[str]:
    """The archives that carry Debian's main component (security and add-ons are others)."""
    for file in sorted(sources.glob("sources.list.d/*.sources")):
        for fields in stanzas(file.read_text()):
            for uri in fields.get("uris", "").split():
                if "main" in fields.get("components", "").split():
                    yield uri
    for file in [sources / "sources.list", *sorted(sources.glob("sources.list.d/*.list"))]:
        if file.is_file():
            line = r"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+\S+\s+main\b"
            yield from re.findall(line, file.read_text(), re.MULTILINE)


def mirror(sources: Path = SOURCES) -> str | None:
    """The host's Debian mirror; None on other distributions, where each tool has a default."""
    found = (uri.rstrip("/") for uri in mirrors(sources))
    return next((uri for uri in found if uri.endswith("/debian")), None)


def source_line(suite: str) -> str | None:
    """The line of a sources.list that brings `suite` from the host's mirror."""
    uri = mirror()
    return f"deb [signed-by={KEYRING}] {uri} {suite} main" if uri else None
