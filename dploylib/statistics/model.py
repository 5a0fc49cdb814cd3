"""What a process tells of itself: the statistics of its servers and their sockets at one moment, as JSON has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from .histogram import Histogram

__all__ = [
    "Connections",
    "LastError",
    "ProcessStatistics",
    "ServerStatistics",
    "SocketStatistics",
    "at_rest",
    "merged",
    "together",
]


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong last, and when (seconds since 1970). `type` is the name of the class of the exception."""

    time: float
    type: str
    message: str = ""


class Connections(msgspec.Struct, kw_only=True):
    """What became of connections: those that were `opened` or `closed` since the start, and attempts that `failed`."""

    opened: int = 0
    closed: int = 0
    failed: int = 0

    @property
    def open(self) -> int:
        """How many there are."""
        return self.opened - self.closed


class SocketStatistics(msgspec.Struct, kw_only=True):
    """What came of the messages of one socket since the start.

    `received` messages, and `handled` ones among them, with which all is done: the others are `in_flight`; `sent`
    messages, and `replied` ones among them, which answered by return value or error. `malformed` ones that were no
    envelope; `refused` bodies that were not what was declared; `rejected` ones for which there was no room or no time;
    `failed` handlers; `timed_out` handlers and deadlines; `unanswered` requests; `undelivered` replies; `dropped`
    messages that ZeroMQ is known to have lost. `problems` are the errors that peers were told, by the last part of
    their type ("handler-failed").

    `bytes_received` and `bytes_sent` are those of the bodies. `handler_time` is from the beginning of a handler until
    its reply was handed to ZeroMQ; `wait_time` from when a caller that says so sent a request until its handler began,
    by the clocks of both. `connections` are those of tcp and ipc, None where they are not counted.
    """

    type: str
    endpoints: list[str] = []
    concurrency: int = 1
    received: int = 0
    handled: int = 0
    sent: int = 0
    replied: int = 0
    malformed: int = 0
    refused: int = 0
    rejected: int = 0
    failed: int = 0
    timed_out: int = 0
    unanswered: int = 0
    undelivered: int = 0
    dropped: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    problems: dict[str, int] = {}
    handler_time: Histogram = msgspec.field(default_factory=Histogram)
    wait_time: Histogram = msgspec.field(default_factory=Histogram)
    connections: Connections | None = None
    last_error: LastError | None = None

    @property
    def in_flight(self) -> int:
        """How many messages have been received and are not yet done with."""
        return self.received - self.handled

    @property
    def errors(self) -> int:
        """How many messages were not handled as they should have been."""
        return self.malformed + self.refused + self.rejected + self.failed + self.timed_out + self.unanswered


class ServerStatistics(msgspec.Struct, kw_only=True):
    """Those of one server.

    `state` is starting, running, stopping or stopped; `restarts` counts how often it was started again after it died.
    `hub_delay` is how much later than it should its hub has come to run a timer.
    """

    type: str
    state: str = "running"
    restarts: int = 0
    hub_delay: Histogram = msgspec.field(default_factory=Histogram)
    sockets: dict[str, SocketStatistics] = {}


class ProcessStatistics(msgspec.Struct, kw_only=True):
    """Those of one process of a service.

    `role` is run, worker, single or front. `instance` is its own among all processes that ever were. `started` and
    `taken`, when these figures were, are seconds since 1970; `cpu_seconds` is the processor's time that it has used,
    `resident` its memory in bytes.
    """

    service: str
    role: str
    pid: int
    instance: str
    version: str
    state: str
    started: float
    taken: float
    cpu_seconds: float = 0.0
    resident: int = 0
    servers: dict[str, ServerStatistics] = {}

    @property
    def hub_delay(self) -> Histogram:
        """Those of all hubs in the process."""
        return sum((server.hub_delay for server in self.servers.values()), Histogram())


def merged(processes: Iterable[ProcessStatistics]) -> dict[str, ServerStatistics]:
    """The servers of several processes, those of the same name as one: counts and histograms add up."""
    return together(process.servers for process in processes)


def together(several: Iterable[Mapping[str, ServerStatistics]]) -> dict[str, ServerStatistics]:
    """The same for servers by name. What does not add up is as the first one has it."""
    servers: dict[str, ServerStatistics] = {}
    for one in several:
        servers = _sum(servers, one)
    return servers


def at_rest(several: Iterable[Mapping[str, ServerStatistics]]) -> dict[str, ServerStatistics]:
    """The same of servers that have ended: nothing is in flight, nobody connected, and no handler may run."""
    return {
        name: replace(
            server, state="stopped", sockets={socket: _at_rest(one) for socket, one in server.sockets.items()}
        )
        for name, server in together(several).items()
    }


def _at_rest(socket: SocketStatistics) -> SocketStatistics:
    counts = socket.connections
    closed = None if counts is None else replace(counts, closed=counts.opened)
    return replace(socket, handled=socket.received, concurrency=0, connections=closed)


def _sum(one: Any, other: Any) -> Any:
    """Both together: what counts adds up; of what does not, it is the first one's. None says nothing."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, LastError):
        return max(one, other, key=lambda error: error.time)
    if isinstance(one, int | Histogram):
        return one + other
    if isinstance(one, dict):
        return one | {key: _sum(one.get(key), value) for key, value in other.items()}
    if isinstance(one, list):
        return one + [value for value in other if value not in one]
    if isinstance(one, msgspec.Struct):
        fields = {name: _sum(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__}
        return type(one)(**fields)
    return one
