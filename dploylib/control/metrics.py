"""What a service tells, as metrics of Prometheus; docs/metrics.md has a table of them.

Servers and sockets are those of the whole service: figures of its processes add up, so that a counter does not fall
when a process ends. Only what belongs to a process has its id as a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..errors import MissingPackage
from ..statistics import Histogram, SocketStatistics
from .snapshot import Snapshot
from .source import Source

try:
    from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        InfoMetricFamily,
        Metric,
    )
    from prometheus_client.openmetrics import exposition as openmetrics
    from prometheus_client.registry import Collector
except ImportError as error:
    raise MissingPackage("/metrics needs prometheus-client: pip install 'dploylib[metrics]'") from error

__all__ = ["BUCKETS", "ServiceCollector", "exposition"]

BUCKETS = [2.0**power for power in range(-17, 7)]
"""Upper bounds of buckets, in seconds: 8 microseconds to 64 seconds. At powers of two a `Histogram` is exact."""

_OF_A_SOCKET = ("server", "socket")
_OF_A_PROCESS = ("pid", "role")

_COUNTERS = {
    "received": ("messages_received", "Messages that were received."),
    "handled": ("messages_handled", "Received messages with which all is done."),
    "sent": ("messages_sent", "Messages that were sent."),
    "replied": ("messages_replied", "Sent messages that answered by return value or error."),
    "dropped": ("messages_dropped", "Messages that ZeroMQ is known to have lost."),
    "undelivered": ("replies_undelivered", "Replies that could not be sent."),
    "bytes_received": ("received_bytes", "Bytes of the bodies that were received."),
    "bytes_sent": ("sent_bytes", "Bytes of the bodies that were sent."),
}
_ERRORS = ("malformed", "refused", "rejected", "failed", "timed_out", "unanswered")
_CONNECTIONS = {
    "opened": "Connections that were opened, of tcp and ipc.",
    "closed": "Connections that were closed, of tcp and ipc.",
    "failed": "Attempts to connect that failed, of tcp and ipc.",
}


def exposition(source: Source, accept: str) -> tuple[str, bytes]:
    """The media type for who accepts this, and the metrics in it: OpenMetrics, else the text format of Prometheus."""
    collector = ServiceCollector(source)
    if "application/openmetrics-text" in accept:
        return openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(collector)  # type: ignore[no-untyped-call]
    return CONTENT_TYPE_PLAIN_0_0_4, generate_latest(collector)


class ServiceCollector(Collector):
    """Collects what a source tells. It can be registered in any `prometheus_client.CollectorRegistry`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry need not ask the service when the collector is registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        snapshot = Snapshot(self._source)
        yield from _of_service(snapshot)
        yield from _of_servers(snapshot)
        yield from _of_sockets(snapshot)
        yield from _of_processes(snapshot)


def _of_service(snapshot: Snapshot) -> Iterator[Metric]:
    build = InfoMetricFamily("dploylib_build", "The versions of dploylib that run.", labels=("service",))
    for version in sorted({process.version for process in snapshot.processes}):
        build.add_metric((snapshot.service,), {"version": version})
    yield build
    yield GaugeMetricFamily("dploylib_ready", "Whether the service is ready.", value=snapshot.health.ready)


def _of_servers(snapshot: Snapshot) -> Iterator[Metric]:
    restarts = CounterMetricFamily(
        "dploylib_server_restarts", "How often a server was started again after it had died.", labels=("server",)
    )
    for server, statistics in snapshot.ever.items():
        restarts.add_metric((server,), statistics.restarts)
    yield restarts
    states = GaugeMetricFamily(
        "dploylib_server_state", "In how many processes a server is in this state.", labels=("server", "state")
    )
    counted: dict[tuple[str, str], int] = {}
    for process in snapshot.processes:
        if process.role == "front":  # which has their connections, and none of them
            continue
        for server, statistics in process.servers.items():
            counted[server, statistics.state] = counted.get((server, statistics.state), 0) + 1
    for key, count in counted.items():
        states.add_metric(key, count)
    yield states


def _of_sockets(snapshot: Snapshot) -> Iterator[Metric]:
    sockets = snapshot.sockets()
    ever = [((server, name), statistics) for server, name, statistics, _ in sockets]
    now = [((server, name), statistics) for server, name, _, statistics in sockets]
    yield from _counters(ever)
    yield from _connections(ever)

    in_flight = GaugeMetricFamily(
        "dploylib_messages_in_flight", "Received messages with which not all is done.", labels=_OF_A_SOCKET
    )
    concurrency = GaugeMetricFamily(
        "dploylib_concurrency", "How many handlers may run at once, in all processes together.", labels=_OF_A_SOCKET
    )
    connections = GaugeMetricFamily("dploylib_connections", "Open connections, of tcp and ipc.", labels=_OF_A_SOCKET)
    for labels, socket in now:
        in_flight.add_metric(labels, socket.in_flight)
        concurrency.add_metric(labels, socket.concurrency)
        if socket.connections is not None:
            connections.add_metric(labels, socket.connections.open)
    yield from (in_flight, concurrency, connections)

    yield _histogram(
        "dploylib_handler_seconds",
        "From the beginning of a handler until its reply was handed to ZeroMQ.",
        [(labels, socket.handler_time) for labels, socket in ever],
    )
    yield _histogram(
        "dploylib_wait_seconds",
        "From when a caller sent a request until its handler began, by the clocks of both.",
        [(labels, socket.wait_time) for labels, socket in ever],
    )


def _counters(sockets: list[tuple[tuple[str, str], SocketStatistics]]) -> Iterator[Metric]:
    for field, (name, meaning) in _COUNTERS.items():
        counter = CounterMetricFamily(f"dploylib_{name}", meaning, labels=_OF_A_SOCKET)
        for labels, socket in sockets:
            counter.add_metric(labels, getattr(socket, field))
        yield counter
    errors = CounterMetricFamily(
        "dploylib_message_errors",
        "Messages that were not handled as they should have been.",
        labels=(*_OF_A_SOCKET, "reason"),
    )
    problems = CounterMetricFamily("dploylib_problems", "Errors that peers were told.", labels=(*_OF_A_SOCKET, "type"))
    last = GaugeMetricFamily(
        "dploylib_last_error_timestamp_seconds",
        "When something went wrong last; the type is the class of the exception.",
        labels=(*_OF_A_SOCKET, "type"),
    )
    for labels, socket in sockets:
        for reason in _ERRORS:
            errors.add_metric((*labels, reason), getattr(socket, reason))
        for problem, count in socket.problems.items():
            problems.add_metric((*labels, problem), count)
        if socket.last_error is not None:
            last.add_metric((*labels, socket.last_error.type), socket.last_error.time)
    yield from (errors, problems, last)


def _connections(sockets: list[tuple[tuple[str, str], SocketStatistics]]) -> Iterator[Metric]:
    for field, meaning in _CONNECTIONS.items():
        counter = CounterMetricFamily(f"dploylib_connections_{field}", meaning, labels=_OF_A_SOCKET)
        for labels, socket in sockets:
            if socket.connections is not None:
                counter.add_metric(labels, getattr(socket.connections, field))
        yield counter


def _of_processes(snapshot: Snapshot) -> Iterator[Metric]:
    cpu = CounterMetricFamily(
        "dploylib_process_cpu_seconds", "The processor's time that a process has used.", labels=_OF_A_PROCESS
    )
    memory = GaugeMetricFamily("dploylib_process_resident_memory_bytes", "Its memory.", labels=_OF_A_PROCESS)
    started = GaugeMetricFamily(
        "dploylib_process_start_time_seconds", "When it was started, since 1970.", labels=_OF_A_PROCESS
    )
    state = GaugeMetricFamily(
        "dploylib_process_state", "1 for the state that it is in.", labels=(*_OF_A_PROCESS, "state")
    )
    for process in snapshot.processes:
        labels = (str(process.pid), process.role)
        cpu.add_metric(labels, process.cpu_seconds)
        memory.add_metric(labels, process.resident)
        started.add_metric(labels, process.started)
        state.add_metric((*labels, process.state), 1)
    yield from (cpu, memory, started, state)
    yield _histogram(
        "dploylib_hub_delay_seconds",
        "How much later than they should have hubs came to run a timer.",
        [((), snapshot.hub_delay)],
        labels=(),
    )


def _histogram(
    name: str,
    meaning: str,
    histograms: Iterable[tuple[tuple[str, ...], Histogram]],
    labels: tuple[str, ...] = _OF_A_SOCKET,
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, histogram in histograms:
        counts = [*histogram.below(BUCKETS), histogram.count]
        bounds = [*map(str, BUCKETS), "+Inf"]
        family.add_metric(values, [*zip(bounds, counts, strict=True)], histogram.sum)
    return family
