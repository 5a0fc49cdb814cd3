"""`dploylib health`: whether a service is ready, for scripts and probes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from .exit_codes import ExitCode
from .parameters import SECONDS_OR_NONE
from .services import found_services, none_found, one_of, selection

if TYPE_CHECKING:
    from .services import Running

__all__ = ["command"]

_AGAIN = 0.2  # seconds from one look to the next


@click.command("health", epilog="Example: dploylib health echo --wait 30")
@selection
@click.option("--wait", type=SECONDS_OR_NONE, default=0.0, help="How long to wait until it is ready, or there at all.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, wait: float) -> None:
    """Say whether a service is ready.

    It is when all its processes answer, and none has a reason not to be. NAME is the name of the service, or its
    process id; it may be left out where only one runs.

    The exit status is 0 when it is ready, 1 when it is not, and 8 when there is no such service.
    """
    until = time.monotonic() + wait
    while True:
        found = found_services(name, pidfile, run_dir)
        why = _why_not(one_of(found)) if found else []
        if found and not why:
            click.echo(f"{found[0]}: ready")
            return
        if time.monotonic() >= until:
            break
        time.sleep(_AGAIN)
    if not found:
        none_found(pidfile, run_dir)
        raise SystemExit(ExitCode.NOT_RUNNING)
    click.echo(f"{found[0]}: not ready", err=True)
    for reason in why:
        click.echo(f"  {reason}", err=True)
    raise SystemExit(ExitCode.FAILED)


def _why_not(service: Running) -> list[str]:
    """Why it is not ready; nothing if it is."""
    from ..control.asking import Remote

    health = Remote(service.run_dir, service.name).health()
    why = [] if service.is_ready else [f"it says that it is {service.statuses[-1]['state']}"]
    if not health.ready:
        why += health.why or [f"it is {health.state}" if health.alive else "none of its processes answers"]
    return why
