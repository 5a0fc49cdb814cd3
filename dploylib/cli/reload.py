"""`dploylib reload`: lets a daemon reload, and says whether it did."""

from __future__ import annotations

import os
import signal
import time

import click

from .exit_codes import ExitCode
from .parameters import SECONDS
from .services import selection, the_service

__all__ = ["command"]

_AGAIN = 0.1  # seconds from one look to the next


@click.command("reload", epilog="Example: dploylib reload echo")
@selection
@click.option(
    "--timeout", type=SECONDS, default=120.0, show_default=True, help="How long to wait until the reload is over."
)
def command(name: str | None, pidfile: str | None, run_dir: str | None, timeout: float) -> None:
    """Reload a service of `dploylib serve`.

    Its configuration and its code, as SIGHUP does; and wait until that is over. NAME is the name of the service, or its
    process id; it may be left out where only one runs.

    The exit status is 0 when it has reloaded; 1 when it has not, and goes on as it was: its log says why; 5 when that
    was not over after --timeout, and 8 when there is no such service.
    """
    service = the_service(name, pidfile, run_dir)
    if service.is_one_process:
        click.echo(f"{service} is one of `dploylib run`, which cannot reload: stop it, and run it again", err=True)
        raise SystemExit(ExitCode.FAILED)
    before = service.statuses[-1]  # of an upgrade, the new one
    until = time.monotonic() + timeout
    os.kill(before["pid"], signal.SIGHUP)
    while time.monotonic() < until:
        now = next((one for one in service.statuses_now if one["pid"] == before["pid"]), None)
        if now is None:
            click.echo(f"{service} has gone", err=True)
            raise SystemExit(ExitCode.NOT_RUNNING)
        if now["reloads"] > before["reloads"] and now["state"] != "reloading":
            if now["generation"] > before["generation"]:
                click.echo(f"{service}: reloaded, generation {now['generation']}")
                return
            click.echo(f"{service}: not reloaded, nothing has changed; its log says why", err=True)
            raise SystemExit(ExitCode.FAILED)
        time.sleep(_AGAIN)
    click.echo(f"{service}: the reload is not over after {timeout:g} s", err=True)
    raise SystemExit(ExitCode.TIMEOUT)
