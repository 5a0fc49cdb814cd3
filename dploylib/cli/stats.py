"""`dploylib stats`: what a service has counted since its start."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .columns import aligned
from .exit_codes import ExitCode
from .failures import printable
from .quantities import data, duration, number, share, span
from .services import selection, the_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..statistics import Histogram, ProcessStatistics, SocketStatistics

__all__ = ["command"]

_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_SOCKET = ("SOCKET", "TYPE", "RECEIVED", "SENT", "ERRORS", "IN-FLIGHT", "P50", "P90", "P99", "IN", "OUT", "CONN")
_PROCESS = ("PROCESS", "PID", "STATE", "UP", "CPU", "MEMORY", "HUB-P99")


@click.command("stats", epilog="Example: dploylib stats echo --json")
@selection
@click.option("--json", "as_json", is_flag=True, help="As an object of JSON, with all that is counted.")
def command(name: str | None, pidfile: str | None, run_dir: str | None, as_json: bool) -> None:
    """Show what a service has counted since its start.

    By socket and by process, with those that have gone. NAME is the name of the service, or its process id; it may be
    left out where only one runs. Times are those of handlers. The exit status is 1 when none of its processes answers.
    """
    from ..control.remote import Remote

    service = the_service(name, pidfile, run_dir)
    processes = Remote(service.run_dir, service.name).statistics()
    if as_json:
        click.echo(json.dumps(_as_json(service.name, processes)))
    elif processes:
        for line in _lines(processes):
            click.echo(line)
    if not processes:
        click.echo(f"none of the processes of {service} answers", err=True)
        raise SystemExit(ExitCode.FAILED)


def _as_json(name: str, processes: list[ProcessStatistics]) -> dict[str, Any]:
    from ..statistics import merged

    return {"name": name, "servers": _plain(merged(processes)), "processes": _plain(processes)}


def _plain(value: Any) -> Any:
    """What JSON has; a histogram as what one asks of it, in seconds."""
    import msgspec

    from ..statistics import Histogram

    if isinstance(value, Histogram):
        quantiles = dict(zip(_SHARES, value.quantiles(list(_SHARES.values())), strict=True))
        return {"count": value.count, "sum": value.sum, "mean": value.mean, **quantiles}
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__} | _derived(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _derived(value: Any) -> dict[str, int]:
    return {name: getattr(value, name) for name in ("in_flight", "errors", "open") if hasattr(value, name)}


def _lines(processes: list[ProcessStatistics]) -> Iterator[str]:
    from ..statistics import merged

    sockets = [
        (f"{server}.{name}", socket)
        for server, statistics in merged(processes).items()
        for name, socket in statistics.sockets.items()
    ]
    yield from aligned([_SOCKET, *(_socket_row(name, socket) for name, socket in sockets)])
    yield ""
    yield from aligned([_PROCESS, *(_process_row(one) for one in processes)])
    troubles = [line for name, socket in sockets for line in _troubles(name, socket)]
    yield from ["", *troubles] if troubles else []


def _socket_row(name: str, socket: SocketStatistics) -> list[str]:
    counts = [socket.received, socket.sent, socket.errors, socket.in_flight]
    times = socket.handler_time.quantiles([0.5, 0.9, 0.99]) if socket.handler_time.count else []
    connections = "" if socket.connections is None else str(socket.connections.open)
    amounts = [data(socket.bytes_received), data(socket.bytes_sent), connections]
    return [name, socket.type, *map(str, counts), *(map(duration, times) if times else ["-"] * 3), *amounts]


def _process_row(process: ProcessStatistics) -> list[str]:
    if not process.pid:
        return [process.role, *[""] * (len(_PROCESS) - 1)]
    seconds = max(process.taken - process.started, 1e-9)
    used = [share(process.cpu_seconds / seconds), data(process.resident), _p99(process.hub_delay)]
    return [process.role, str(process.pid), process.state, span(seconds), *used]


def _p99(histogram: Histogram) -> str:
    return duration(histogram.quantile(0.99)) if histogram.count else "-"


def _troubles(name: str, socket: SocketStatistics) -> Iterator[str]:
    """What went wrong at a socket."""
    kinds = ("malformed", "refused", "rejected", "failed", "timed_out", "unanswered", "undelivered", "dropped")
    counts = {kind: getattr(socket, kind) for kind in kinds}
    if any(counts.values()):
        yield f"{name}: {', '.join(f'{number(count)} {kind}' for kind, count in counts.items() if count)}"
    if socket.last_error is not None:
        yield f"{name}: last error: {printable(f'{socket.last_error.type}: {socket.last_error.message}')}"
