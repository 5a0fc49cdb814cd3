"""`dploylib loglevel`: shows and changes what a running service logs."""

from __future__ import annotations

import click

from .logs import LEVELS
from .services import answers_of, selection, the_service

__all__ = ["command"]


@click.command("loglevel", epilog="Example: dploylib loglevel echo debug --logger dploylib.servers")
@selection
@click.argument("level", required=False, type=click.Choice(LEVELS, case_sensitive=False))
@click.option("--logger", default="", metavar="NAME", help="That of one logger; else of the root of all.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, level: str | None, logger: str) -> None:
    """Show or change what a service logs.

    That is the least important level that is logged, in all its processes; a change lasts until they end, and those
    that start later have the level of the configuration. NAME is the name of the service, or its process id; it may be
    left out where only one runs. The exit status is 0 when all its processes have
    answered, 1 when some have not.
    """
    if level is None and name is not None and name.lower() in LEVELS:
        level, name = name.lower(), None
    service = the_service(name, pidfile, run_dir)
    argument = {"level": level, "logger": logger} if level is not None else {"logger": logger} if logger else None
    for answer in answers_of(service, "LOGLEVEL", argument):
        now, before = answer.value["level"], answer.value.get("before")
        change = f", was {before}" if level is not None and before not in (None, now) else ""
        click.echo(f"process {answer.pid}: {now}{change}")
