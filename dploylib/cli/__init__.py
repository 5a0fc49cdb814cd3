"""The command line, one file a command. Importing it imports little more than click: commands import what they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from . import (
    call,
    check,
    health,
    key,
    keygen,
    listen,
    loglevel,
    profile,
    ps,
    reload,
    run,
    schema,
    send,
    serve,
    stacks,
    stats,
    status,
    stop,
    top,
)
from .exit_codes import ExitCode, table
from .failures import reported
from .parameters import Group

__all__ = ["cli", "main"]


class _Commands(Group):
    """Tells about the failure of a command."""

    def invoke(self, ctx: click.Context) -> Any:
        with reported():
            return super().invoke(ctx)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"\b\nExit codes:\n{table()}",
)
@click.version_option(__version__, prog_name="dploylib", message="%(prog)s %(version)s")
def cli() -> None:
    """Run services over ZeroMQ, and talk to them."""


_RUNNING = (ps, status, stats, top, health, stop, reload, stacks, loglevel, profile)
for module in (run, serve, *_RUNNING, check, schema, call, send, listen, keygen, key):
    cli.add_command(module.command)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments, those of the process by default. Returns the exit status."""
    try:
        return int(cli.main(args, prog_name="dploylib", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.SIGINT
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else ExitCode.FAILED
