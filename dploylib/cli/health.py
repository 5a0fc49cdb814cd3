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

    A service of `run` has to answer that it is, of one of `serve` the arbiter says so. NAME is the name of the service,
    or its process id; it may be left out where only one runs.

    The exit status is 0 when it is ready, 1 when it is not, and 8 when there is no such service.
    """
    until = time.monotonic() + wait
    while True:
        found = found_services(name, pidfile, run_dir)
        ready, why = _health_of(one_of(found)) if found else (False, [])
        if ready or time.monotonic() >= until:
            break
        time.sleep(_AGAIN)
    if not found:
        none_found(pidfile, run_dir)
        raise SystemExit(ExitCode.NOT_RUNNING)
    click.echo(f"{found[0]}: {'ready' if ready else 'not ready'}")
    for reason in why:
        click.echo(f"  {reason}")
    raise SystemExit(ExitCode.OK if ready else ExitCode.FAILED)


def _health_of(service: Running) -> tuple[bool, list[str]]:
    """Whether it is ready, and what there is to be said against it."""
    from ..control.remote import Remote

    health = Remote(service.run_dir, service.name).health()
    return health.ready, health.why
