"""What orchctl does: its verbs, and how an error leaves it (message, advice, exit code)."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from orchd import __version__
from orchd.cli import say
from orchd.wire.errors import TABLE, Kind, OrchError

CANCELED: Final = TABLE[Kind.CANCELED].exit_code
VERBS: Final = {
    "up": ("up", "Run the whole suite in this terminal until Ctrl-C."),
    "run": ("run", "Send a prompt and print the answer as it comes."),
    "embed": ("vectors:embed", "Print the vectors of texts."),
    "rerank": ("vectors:rerank", "Print documents by their scores for a query."),
    "explain": ("explain", "Show where a task would run now, and why not elsewhere."),
    "status": ("status", "Show the daemon and its tasks, or one task."),
    "cancel": ("cancel", "Cancel a task, queued or running."),
    "pools": ("pools", "Show pools and replicas: state, last error; reset one that rests."),
    "sessions": ("sessions", "Show what a session has used and has left, or end it."),
    "drain": ("drain", "Place nothing more on a pool, and let its tasks end."),
    "reload": ("reload", "Give a pool another model; the old one stays if that fails."),
    "plan": ("provision:plan", "Show how a pool's engine would come here."),
    "provision": ("provision:provision", "Bring a pool's engine here."),
    "models": ("models", "Show and change the catalog of models."),
    "artifacts": ("artifacts", "Show, store and delete what agents left behind."),
    "policy": ("policy", "Ask a policy plugin, as orchd would."),
    "config": ("config", "Check the configuration, or print its JSON Schema."),
}


class _Verbs(click.Group):
    """Imports a verb when it is used: `cancel` need not load what draws tables."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        module, _, command_name = VERBS[name][0].partition(":")
        command = getattr(importlib.import_module(f"orchd.cli.{module}"), command_name or "command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in VERBS.items()])


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="orchctl", message="%(prog)s %(version)s")
def program() -> None:
    """Operate orchd: run models on this machine's GPUs for many clients.

    \b
    First steps:
      orchctl config check     is my configuration right?
      orchctl up               start everything here (or: systemctl start orchd.target)
      orchctl run "Hello"      use it
      orchctl pools            what is ready, and if not, why
    """


def run(arguments: list[str] | None) -> int:
    """Run one verb; return its exit code (the error table's, 2 for wrong usage)."""
    try:
        return _exit_code(program.main(arguments, prog_name="orchctl", standalone_mode=False))
    except click.exceptions.Abort:
        return CANCELED
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except OrchError as exc:
        say.error(exc)
        return exc.row.exit_code
    except KeyboardInterrupt:
        return CANCELED
    except BrokenPipeError:
        # the reader of our output (head, less) has left: nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _exit_code(value: object) -> int:
    return value if isinstance(value, int) else 0
