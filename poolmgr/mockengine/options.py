"""The mock engine's command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from attrs import evolve, frozen

NEVER_MS = 1e9
SELF_TEST_FAULTS = ("die", "hang", "garbage", "keep_slot")


@frozen(kw_only=True)
class Options:
    """How to serve, and how to fail. Rates in tokens a second, times in milliseconds."""

    socket: str
    model: str
    slots: int = 1
    ctx: int = 8192
    tokens_per_s: float = 50.0
    """Of one slot; 0: as fast as possible."""
    first_token_ms: float = 0.0
    embedding_dim: int = 64
    """Numbers of a vector."""
    load_ms: float = 0.0
    ubatch_size: int = 512
    flash_attn: str = "auto"
    refuse_load: bool = False
    refuse_model: str | None = None
    die_after_tokens: int | None = None
    hang_after_tokens: int | None = None
    garbage_after_tokens: int | None = None
    split_utf8: bool = False
    die_after_load_ms: float | None = None
    self_test: str | None = None
    """How to fail a job with the header X-Self-Test: die, hang, garbage, keep_slot."""

    @property
    def fault_at(self) -> int | None:
        """Tokens of one job after which something is to happen, if any."""
        points = (self.die_after_tokens, self.hang_after_tokens, self.garbage_after_tokens)
        return min((point for point in points if point is not None), default=None)

    @property
    def of_self_test(self) -> Options:
        """For a job of poolmgr's self-test: faults by tokens are of tasks."""
        first_token_ms = NEVER_MS if self.self_test == "hang" else self.first_token_ms
        return evolve(
            self,
            die_after_tokens=None,
            hang_after_tokens=None,
            garbage_after_tokens=None,
            first_token_ms=first_token_ms,
        )


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Return the options of a command line; exits 2 with the usage for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="poolmgr.mockengine", description="A mock engine that speaks llama-server's dialect."
    )
    add = parser.add_argument
    add("--socket", required=True, metavar="PATH", help="the unix socket to serve")
    add("--model", default="mock:lorem", help="mock:lorem or mock:short (ends by itself)")
    add("--slots", type=_positive, default=1, metavar="N", help="jobs at the same time")
    add("--ctx", type=_positive, default=8192, metavar="N", help="tokens of context of a slot")
    add("--tokens-per-s", type=_number, default=50.0, metavar="R", help="0: as fast as possible")
    add("--first-token-ms", type=_number, default=0.0, metavar="MS")
    add("--embedding-dim", type=_positive, default=64, metavar="N", help="numbers of a vector")
    add("--load-ms", type=_number, default=0.0, metavar="MS", help="answer 503 for so long")
    same = "as llama-server's, whose output it changes; not the mock's"
    add("--ubatch-size", type=_positive, default=512, metavar="N", help=same)
    add("--flash-attn", choices=("on", "off", "auto"), default="auto", help=same)
    faults = parser.add_argument_group("faults (token counts are of one job)")
    add = faults.add_argument
    add("--refuse-load", action="store_true", help="exit 1 instead of serving")
    add("--refuse-model", metavar="NAME", help="exit 1 if --model is this one")
    add("--die-after-tokens", type=_positive, metavar="N", help="kill itself by SIGKILL")
    add("--hang-after-tokens", type=_positive, metavar="N", help="send nothing more")
    add("--garbage-after-tokens", type=_positive, metavar="N", help="send bytes that are no frame")
    add("--split-utf8", action="store_true", help="cut sends inside characters and frames")
    add("--die-after-load-ms", type=_number, metavar="MS", help="exit 0 so long after loading")
    add("--self-test", choices=SELF_TEST_FAULTS, help="fail poolmgr's self-test")
    return Options(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be from 0 up to 1e9")
    return value
