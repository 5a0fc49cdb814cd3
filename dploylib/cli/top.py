"""`dploylib top`: a live view of what happens in a service."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING

import click

from ..errors import MissingPackage
from .columns import aligned
from .exit_codes import ExitCode
from .parameters import SECONDS
from .services import Running, found_services, selection, the_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..control import Health
    from ..statistics import ProcessStatistics
    from .watching import Column, Row, Watch

__all__ = ["Followed", "command"]


@click.command("top", epilog="Example: dploylib top echo")
@selection
@click.option("--interval", type=SECONDS, default=1.0, show_default=True, help="From one look to the next.")
@click.option("--once", is_flag=True, help="Print as text what happens within one interval, and end.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, interval: float, once: bool) -> None:
    """Watch what happens in a service.

    Messages a second, how long handlers take, errors: by socket and by process. NAME is the name of the service, or its
    process id; it may be left out where only one runs.

    Keys: Tab shows the other table, s sorts by the next column, as does a click on its heading, r the other way round;
    p pauses, ? helps, q ends. Where stdout is no terminal, it is as with --once. Needs dploylib[top].
    """
    from .watching import Watch

    service = the_service(name, pidfile, run_dir)
    watch = Watch(Followed(service, lambda: found_services(name or service.name, pidfile, run_dir)))
    if once or not sys.stdout.isatty():
        for line in _once(watch, interval):
            click.echo(line)
        return
    if importlib.util.find_spec("textual") is None:
        raise MissingPackage("the live view needs Textual: pip install 'dploylib[top]'; or use --once")
    from .top_screen import TopScreen

    TopScreen(watch, interval).run()


class Followed:
    """A source: a service, and when that has gone, another one that is found in its place."""

    def __init__(self, service: Running, find: Callable[[], Sequence[Running]]) -> None:
        from ..control.remote import Remote

        self._service, self._find = service, find
        self.name = service.name
        self._remote = Remote(service.run_dir, service.name)

    def statistics(self) -> list[ProcessStatistics]:
        """What its processes tell."""
        from ..control.remote import Remote

        if not self._service.is_there and len(found := self._find()) == 1:
            self._service = found[0]
            self._remote = Remote(self._service.run_dir, self.name)
        return self._remote.statistics()

    def health(self) -> Health:
        """How it is."""
        return self._remote.health()


def _once(watch: Watch, interval: float) -> Iterator[str]:
    from .watching import PROCESSES, SOCKETS

    watch.look()
    time.sleep(interval)
    view = watch.look()
    if not view.processes:
        click.echo(f"none of the processes of {watch.source.name} answers", err=True)
        raise SystemExit(ExitCode.FAILED)
    yield from _as_text(SOCKETS, view.sockets)
    yield ""
    yield from _as_text(PROCESSES, view.processes)


def _as_text(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    from .watching import by

    shown = [column for column in columns if column.title != "trend"]  # there is none yet
    titles = [column.title for column in shown]
    return aligned([titles, *([column.text(row) for column in shown] for row in by(rows, columns[1]))])
