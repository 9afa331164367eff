"""What is wrong with a configuration: every fault with its place, as one error.

A place is `file:line` for what the file says, and the name of the variable or flag for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from orchd.wire.errors import Kind, OrchError


@frozen
class ConfigFault:
    """One thing wrong, where, and what is allowed."""

    where: str
    """`/etc/orchd/orchd.toml:12`, `environment ORCHD_ADDR`, `flag bind_addr`."""
    path: str
    """`$.pools[0].ctx`."""
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.path}: {self.message}"


class ConfigError(OrchError):
    """The configuration cannot be used. `faults` has every reason, in the file's order."""

    def __init__(self, faults: Sequence[ConfigFault]) -> None:
        self.faults = tuple(faults)
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        lines = "".join(f"\n  {fault}" for fault in faults)
        super().__init__(
            Kind.CONFIG_INVALID, f"{count} in the configuration:{lines}", path=faults[0].path
        )
