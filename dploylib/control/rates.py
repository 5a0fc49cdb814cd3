"""What happened between two snapshots of the statistics of a service: rates a second, and how long things took."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import msgspec

from ..statistics import Histogram, ProcessStatistics, SocketStatistics, merged

__all__ = ["ProcessRates", "SocketRates", "added", "by_process", "by_socket", "process_rates", "socket_rates"]

GONE = "gone"
"""The role of what all processes together tell that have ended."""

_Key = TypeVar("_Key", bound=Hashable)


class SocketRates(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the messages of a socket in an interval, in one process (`pid`), or in several of them (0).

    All are numbers a second, but for `in_flight` and `connections` (None where they are not counted), which are those
    at its end, and for the histograms, which have the durations of the interval.
    """

    server: str
    socket: str
    type: str
    pid: int = 0
    received: float = 0.0
    handled: float = 0.0
    sent: float = 0.0
    errors: float = 0.0
    bytes_received: float = 0.0
    bytes_sent: float = 0.0
    in_flight: int = 0
    connections: int | None = None
    handler_time: Histogram = msgspec.field(default_factory=Histogram)
    wait_time: Histogram = msgspec.field(default_factory=Histogram)

    @property
    def name(self) -> str:
        """The server and the socket."""
        return f"{self.server}.{self.socket}"


class ProcessRates(msgspec.Struct, frozen=True, kw_only=True):
    """What a process used in an interval: `cpu` is the share of one processor, `hub_delay` that of the interval.

    `uptime` is in seconds, `resident` in bytes, at its end.
    """

    pid: int
    role: str
    state: str
    uptime: float
    resident: int
    cpu: float = 0.0
    hub_delay: Histogram = msgspec.field(default_factory=Histogram)


def socket_rates(before: Iterable[ProcessStatistics], now: Iterable[ProcessStatistics]) -> list[SocketRates]:
    """Those of each socket in each process that is there now.

    A process that was not there before counts from its start. What counts less than before began anew meanwhile, and
    counts from 0. A process that tells what it told before is silent: nothing is known to have happened. Of those that
    have gone since, there is what they did before their end, all together, with the process id 0.
    """
    before, now = list(before), list(now)
    rates = _of_gone(before, now)
    for process, earlier, seconds in _paired(before, now):
        for name, server in process.servers.items():
            was = earlier.servers.get(name) if earlier is not None else None
            for socket_name, socket in server.sockets.items():
                old = was.sockets.get(socket_name) if was is not None else None
                old = old or SocketStatistics(type=socket.type)
                rates.append(_socket_rates(name, socket_name, process.pid, old, socket, seconds))
    return rates


def process_rates(before: Iterable[ProcessStatistics], now: Iterable[ProcessStatistics]) -> list[ProcessRates]:
    """Those of each process that is there now; as above."""
    return [
        ProcessRates(
            pid=process.pid,
            role=process.role,
            state=process.state,
            uptime=max(0.0, process.taken - process.started),
            resident=process.resident,
            cpu=_rate(earlier.cpu_seconds if earlier else 0.0, process.cpu_seconds, seconds),
            hub_delay=_since(earlier.hub_delay if earlier else Histogram(), process.hub_delay, seconds),
        )
        for process, earlier, seconds in _paired(before, now)
    ]


def by_socket(rates: Iterable[SocketRates]) -> list[SocketRates]:
    """Those of all processes together, by socket."""
    return list(_grouped(rates, lambda one: one.name).values())


def by_process(rates: Iterable[SocketRates]) -> dict[int, SocketRates]:
    """Those of all sockets together, by the id of the process."""
    return _grouped(rates, lambda one: one.pid)


def added(rates: Sequence[SocketRates]) -> SocketRates:
    """All of them together. Of what does not add up, it is that which all have in common, or else nothing."""

    def common(values: set[_Key], nothing: _Key) -> _Key:
        return values.pop() if len(values) == 1 else nothing

    counted = [one.connections for one in rates if one.connections is not None]
    return SocketRates(
        server=common({one.server for one in rates}, ""),
        socket=common({one.socket for one in rates}, ""),
        type=common({one.type for one in rates}, ""),
        pid=common({one.pid for one in rates}, 0),
        received=sum(one.received for one in rates),
        handled=sum(one.handled for one in rates),
        sent=sum(one.sent for one in rates),
        errors=sum(one.errors for one in rates),
        bytes_received=sum(one.bytes_received for one in rates),
        bytes_sent=sum(one.bytes_sent for one in rates),
        in_flight=sum(one.in_flight for one in rates),
        connections=sum(counted) if counted else None,
        handler_time=sum((one.handler_time for one in rates), Histogram()),
        wait_time=sum((one.wait_time for one in rates), Histogram()),
    )


def _grouped(rates: Iterable[SocketRates], key: Callable[[SocketRates], _Key]) -> dict[_Key, SocketRates]:
    groups: dict[_Key, list[SocketRates]] = {}
    for one in rates:
        groups.setdefault(key(one), []).append(one)
    return {name: added(group) for name, group in groups.items()}


def _paired(
    before: Iterable[ProcessStatistics], now: Iterable[ProcessStatistics]
) -> Iterable[tuple[ProcessStatistics, ProcessStatistics | None, float]]:
    """Each process that is there now, with what it told before and the seconds since then, or since its start."""
    earlier = {process.instance: process for process in before}
    for process in now:
        if process.role != GONE:
            was = earlier.get(process.instance)
            yield process, was, process.taken - (was.taken if was is not None else process.started)


def _of_gone(before: list[ProcessStatistics], now: list[ProcessStatistics]) -> list[SocketRates]:
    """What those did that have gone meanwhile: all that is told of such, but for what they had told themselves."""
    here = {process.instance for process in now if process.role != GONE}
    told = merged(process for process in before if process.instance not in here)
    seconds = max((process.taken for process in now), default=0.0) - max((one.taken for one in before), default=0.0)
    rates = []
    for process in now if before else []:
        for name, server in process.servers.items() if process.role == GONE else ():
            for socket_name, socket in server.sockets.items():
                old = told[name].sockets.get(socket_name) if name in told else None
                if old is None or socket.received > old.received or socket.sent > old.sent:
                    old = old or SocketStatistics(type=socket.type)
                    rates.append(_socket_rates(name, socket_name, process.pid, old, socket, seconds))
    return rates


def _socket_rates(
    server: str, name: str, pid: int, old: SocketStatistics, new: SocketStatistics, seconds: float
) -> SocketRates:
    return SocketRates(
        server=server,
        socket=name,
        type=new.type,
        pid=pid,
        received=_rate(old.received, new.received, seconds),
        handled=_rate(old.handled, new.handled, seconds),
        sent=_rate(old.sent, new.sent, seconds),
        errors=_rate(old.errors, new.errors, seconds),
        bytes_received=_rate(old.bytes_received, new.bytes_received, seconds),
        bytes_sent=_rate(old.bytes_sent, new.bytes_sent, seconds),
        in_flight=max(0, new.in_flight),
        connections=None if new.connections is None else max(0, new.connections.open),
        handler_time=_since(old.handler_time, new.handler_time, seconds),
        wait_time=_since(old.wait_time, new.wait_time, seconds),
    )


def _rate(old: float, new: float, seconds: float) -> float:
    if seconds <= 0:
        return 0.0
    return (new - old if new >= old else new) / seconds


def _since(old: Histogram, new: Histogram, seconds: float) -> Histogram:
    if seconds <= 0:
        return Histogram()
    return new - old if new.count >= old.count else new
