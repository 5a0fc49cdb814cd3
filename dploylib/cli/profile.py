"""`dploylib profile`, and the option `--profile` of `dploylib run`: where the time of a service goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .parameters import PROFILE, SECONDS

if TYPE_CHECKING:
    from ..services import Service

__all__ = ["command", "profiled"]


@click.command("profile", epilog="Example: dploylib profile echo --seconds 30 -o echo.html")
@click.argument("name")
@click.option("--seconds", type=SECONDS, default=10, show_default=True, help="How long to look.")
@click.option(
    "-o",
    "--output",
    type=PROFILE,
    metavar="FILE",
    help="Where to write it: .html is a page for the browser, .json is for speedscope.app, .txt is text. Without it, "
    "text goes to stdout.",
)
def command(name: str, seconds: float, output: Path | None) -> None:
    """Show where the time of a running service goes, as a flame graph: by greenlet, with its server and socket.

    All processes of the service are sampled at once. Meanwhile a message costs them about twice its time.
    """
    from ..control.profiling import Session, render

    sessions = {process: Session.from_json(value) for process, value in _ask(name, seconds).items()}
    text = render(sessions, ".txt" if output is None else output.suffix)
    if output is None:
        click.echo(text)
    else:
        output.write_text(text, encoding="utf-8")


def _ask(name: str, seconds: float) -> dict[str, dict[str, Any]]:
    """What `profile(seconds).to_json()` is in each process of the service of this name, by what to call the process."""
    raise NotImplementedError("there is no control server to ask")


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
