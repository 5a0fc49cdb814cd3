"""What `dploylib top` shows: what happened in a service since the last look, as rows and columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..control import Health, Source
from ..control.rates import (
    ProcessRates,
    SocketRates,
    added,
    by_process,
    by_socket,
    process_rates,
    socket_rates,
)
from ..statistics import Histogram, ProcessStatistics
from .quantities import bar_chart, data, duration, number, share, span

__all__ = ["PROCESSES", "SOCKETS", "Column", "Row", "View", "Watch", "by"]

_REMEMBERED = 120  # looks, for the bars
_TREND = 6  # characters


class Row(NamedTuple):
    """A socket, or a process with all its sockets. `past` has what it received a second, the last one last."""

    key: str
    rates: SocketRates
    process: ProcessRates | None = None
    past: Sequence[float] = ()


class Column(NamedTuple):
    """What is shown of a row. Numbers stand at the right of their column, and are sorted from the highest on."""

    title: str
    width: int
    value: Callable[[Row], Any]
    shown: Callable[[Any], str] = str
    is_number: bool = True

    def text(self, row: Row) -> str:
        """What stands there in this row."""
        return self.shown(self.value(row))


class View(NamedTuple):
    """What there is to be seen at a look."""

    health: Health
    sockets: list[Row]
    processes: list[Row]
    total: SocketRates

    @property
    def p99(self) -> float:
        """The 99th percentile of the times of all handlers, in seconds; 0 when none has run."""
        return self.total.handler_time.quantile(0.99)


class Watch:
    """Looks at a service again and again. The first look shows the mean since its start."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._before: list[ProcessStatistics] = []
        self._past: dict[str, deque[float]] = {}

    def look(self) -> View:
        """What has happened since the last look. May wait, as the source does."""
        now = self.source.statistics()
        health = self.source.health()
        rates = socket_rates(self._before, now)
        of_processes = by_process(rates)
        sockets = [self._row(f"socket {one.name}", one) for one in by_socket(rates)]
        processes = [
            self._row(f"process {one.pid}", of_processes.get(one.pid) or added([]), one)
            for one in process_rates(self._before, now)
        ]
        self._before = now
        seen = {row.key for row in (*sockets, *processes)}
        self._past = {key: past for key, past in self._past.items() if key in seen}
        return View(health, sockets, processes, added(rates))

    def _row(self, key: str, rates: SocketRates, process: ProcessRates | None = None) -> Row:
        past = self._past.setdefault(key, deque(maxlen=_REMEMBERED))
        if self._before:  # else it is the mean since the start
            past.append(rates.received or rates.sent)
        return Row(key, rates, process, tuple(past))


def by(rows: Sequence[Row], column: Column, reverse: bool = False) -> list[Row]:
    """The rows, sorted by a column: numbers from the highest on, names from A on; or the other way round."""

    def value(row: Row) -> Any:
        found = column.value(row)
        return -1.0 if found is None else found

    return sorted(sorted(rows, key=lambda row: row.key), key=value, reverse=column.is_number is not reverse)


def _quantile(of: Callable[[Row], Histogram], at: float) -> Callable[[Row], float | None]:
    def value(row: Row) -> float | None:
        histogram = of(row)
        return histogram.quantile(at) if histogram.counts else None

    return value


def _known(text: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda value: "-" if value is None else text(value)


def _handlers(row: Row) -> Histogram:
    return row.rates.handler_time


def _of_process(value: Callable[[ProcessRates], Any]) -> Callable[[Row], Any]:
    return lambda row: None if row.process is None else value(row.process)


def _rate(title: str, width: int, value: Callable[[SocketRates], float]) -> Column:
    return Column(title, width, lambda row: value(row.rates), number)


_TIME = _known(duration)
_MESSAGES = (
    _rate("msg/s", 6, lambda rates: rates.received),
    _rate("sent/s", 7, lambda rates: rates.sent),
    Column("trend", _TREND + 1, lambda row: row.past[::-1], lambda past: bar_chart(past[::-1], _TREND)),
)
_P99 = Column("p99", 6, _quantile(_handlers, 0.99), _TIME)
_BUSY = (
    Column("busy", 5, lambda row: row.rates.in_flight, number),
    _rate("err/s", 6, lambda rates: rates.errors),
)

SOCKETS = (
    Column("socket", 14, lambda row: row.rates.name, is_number=False),
    *_MESSAGES,
    Column("p50", 6, _quantile(_handlers, 0.5), _TIME),
    Column("p90", 6, _quantile(_handlers, 0.9), _TIME),
    _P99,
    *_BUSY,
    Column("in/s", 6, lambda row: row.rates.bytes_received, data),
    Column("out/s", 6, lambda row: row.rates.bytes_sent, data),
    Column("conn", 5, lambda row: row.rates.connections, _known(str)),
    Column("wait", 6, _quantile(lambda row: row.rates.wait_time, 0.99), _TIME),
    Column("type", 7, lambda row: row.rates.type, is_number=False),
)
"""What is shown of sockets."""

PROCESSES = (
    Column("process", 14, lambda row: f"{row.process.role} {row.process.pid}" if row.process else "", is_number=False),
    *_MESSAGES,
    _P99,
    *_BUSY,
    Column("cpu", 5, _of_process(lambda process: process.cpu), _known(share)),
    Column("mem", 6, _of_process(lambda process: process.resident), _known(data)),
    Column("hub", 6, _quantile(lambda row: row.process.hub_delay if row.process else Histogram(), 0.99), _TIME),
    Column("conn", 5, lambda row: row.rates.connections, _known(str)),
    Column("up", 5, _of_process(lambda process: process.uptime), _known(span)),
    Column("state", 9, _of_process(lambda process: process.state), is_number=False),
)
"""What is shown of processes."""
