"""`dploylib profile`, and the option `--profile` of `dploylib run`: where the time of a service goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .parameters import PROFILE, SECONDS
from .services import answers_of, selection, the_service

if TYPE_CHECKING:
    from ..services import Service

__all__ = ["command", "profiled"]

_PATIENCE = 10.0  # seconds for the answer, which is large


@click.command("profile", epilog="Example: dploylib profile echo --seconds 30 -o echo.html")
@selection
@click.option("--seconds", type=SECONDS, default=10, show_default=True, help="How long to look.")
@click.option(
    "-o",
    "--output",
    type=PROFILE,
    metavar="FILE",
    help="Where to write it: .html is a page for the browser, .json is for speedscope.app, .txt is text. Without it, "
    "text goes to stdout.",
)
def command(name: str | None, pidfile: str | None, run_dir: str | None, seconds: float, output: Path | None) -> None:
    """Show where the time of a running service goes, as a flame graph: by greenlet, with its server and socket.

    NAME is the name of the service, or its process id; it may be left out where only one runs. All of its processes are
    sampled at once. Meanwhile a message costs them about twice its time. The exit status is 0 when all its processes
    have answered, 1 when some have not: the profile is that of the others.
    """
    from ..control.profiling import Session, render

    service = the_service(name, pidfile, run_dir)
    sessions = {}
    try:
        for answer in answers_of(service, "PROFILE", {"seconds": seconds}, timeout=seconds + _PATIENCE):
            sessions[f"process {answer.pid}"] = Session.from_json(answer.value)
    finally:  # also when some do not answer
        if sessions:
            text = render(sessions, ".txt" if output is None else output.suffix)
            if output is None:
                click.echo(text)
            else:
                output.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def profiled(service: Service, file: Path) -> Iterator[None]:
    """Within it, sample the hubs of a service, and write what came of it in the end, however that comes."""
    import gevent

    from ..control.profiling import Profiler, render

    profiler = Profiler()
    profiler.sample(gevent.get_hub())
    service.add_hook(profiler)  # for the hubs of servers in threads
    try:
        yield
    finally:
        file.write_text(render({"service": profiler.stop()}, file.suffix), encoding="utf-8")
