"""`dploylib stop`: stops a service, and waits until it has gone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import click

from .exit_codes import ExitCode
from .parameters import SECONDS_OR_NONE
from .services import selection, the_service

if TYPE_CHECKING:
    from .services import Running

__all__ = ["command"]

_AGAIN = 0.05  # seconds from one look to the next


@click.command("stop", epilog="Example: dploylib stop echo")
@selection
@click.option("--now", is_flag=True, help="Do not wait for running handlers: they are ended.")
@click.option(
    "--timeout",
    type=SECONDS_OR_NONE,
    default=60.0,
    show_default=True,
    help="How long to wait until it has gone; 0 does not wait.",
)
def command(name: str | None, pidfile: str | None, run_dir: str | None, now: bool, timeout: float) -> None:
    """Stop a service, and wait until it has gone.

    Running handlers may finish, as with SIGTERM. NAME is the name of the service, or its process id; it may be left out
    where only one runs.

    The exit status is 0 when it has gone, 5 when it had not after --timeout (it may still stop later), and 8 when there
    is no such service.
    """
    service = the_service(name, pidfile, run_dir)
    _tell(service, now)
    until = time.monotonic() + timeout
    while service.is_there:
        if time.monotonic() >= until:
            if timeout:
                click.echo(f"{service} was told to stop, and has not gone within {timeout:g} s", err=True)
            raise SystemExit(ExitCode.TIMEOUT if timeout else ExitCode.OK)
        time.sleep(_AGAIN)
    click.echo(f"{service}: stopped")


def _tell(service: Running, now: bool) -> None:
    """Ask one process; signal arbiters, whose workers would all do that, each once, and both of an upgrade."""
    from ..control.asking import ask

    if service.is_one_process:
        answers = ask(service.run_dir, "STOP", {"graceful_timeout": 0.0 if now else None})
        if any(not answer.error for answer in answers):
            return
    for pid in service.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT if now and not service.is_one_process else signal.SIGTERM)
