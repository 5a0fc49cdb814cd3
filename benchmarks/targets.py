"""What must hold: ratios between contenders in one run, and a few figures by themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A bound for a figure of a case: of `contender` divided by that of `than`, or of `contender` alone."""

    title: str
    case: str
    figure: str
    contender: str
    than: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def bound(self) -> str:
        """The bound as it is printed."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    def holds(self, value: float) -> bool:
        """Whether a value keeps to the bound."""
        below = self.at_most is None or value <= self.at_most
        return below and (self.at_least is None or value >= self.at_least)


SEND, RETURN, MANY = "dploylib", "dploylib return", "dploylib concurrency=100"

TARGETS = (
    Target("server CPU, REP, 100 outstanding", "rep-64B-100", "cpu_us", SEND, "pyzmq", at_most=1.0),
    Target("server CPU, ROUTER, 100 outstanding", "router-64B-100", "cpu_us", SEND, "pyzmq", at_most=1.0),
    Target("server CPU, REP, 100 outstanding", "rep-64B-100", "cpu_us", RETURN, "pyzmq", at_most=1.15),
    Target("server CPU, ROUTER, 100 outstanding", "router-64B-100", "cpu_us", RETURN, "pyzmq", at_most=1.15),
    Target("server CPU, REP, 100 outstanding", "rep-64B-100", "cpu_us", MANY, "pyzmq", at_most=1.6),
    Target("throughput, REP, 100 outstanding", "rep-64B-100", "throughput", SEND, "zmq.green", at_least=3),
    Target("throughput, ROUTER, 100 outstanding", "router-64B-100", "throughput", SEND, "zmq.green", at_least=3),
    Target("server CPU, REP, 100 outstanding", "rep-64B-100", "cpu_us", "zerorpc", SEND, at_least=20),
    Target("server CPU, REP, 100 outstanding", "rep-64B-100", "cpu_us", "grpc", SEND, at_least=20),
    Target("p50, REP, 1 outstanding", "rep-64B-1", "p50_us", SEND, "zmq.green", at_most=1.0),
    Target("throughput, REP, 1 MB", "rep-1MB", "throughput", SEND, "pyzmq", at_least=0.95),
    Target("throughput, PUB to 100 subscribers", "pub-100", "throughput", SEND, "pyzmq", at_least=0.95),
    Target("server CPU, REP", "secured-rep", "cpu_us", "dploylib, CURVE", "dploylib, open", at_most=2.0),
    Target("server CPU, REP", "secured-rep", "cpu_us", "dploylib, CURVE", "pyzmq, CURVE", at_most=1.0),
    Target("server CPU, ROUTER", "secured-router", "cpu_us", "dploylib, CURVE", "dploylib, open", at_most=2.0),
    Target("server CPU, ROUTER", "secured-router", "cpu_us", "dploylib, CURVE", "pyzmq, CURVE", at_most=1.0),
    Target("calls/s, a script", "client-1", "throughput", "dploylib -> pyzmq", "pyzmq REQ -> pyzmq", at_least=0.9),
    Target(
        "calls/s, 100 greenlets", "client-100", "throughput", "dploylib -> dploylib", "zerorpc -> zerorpc", at_least=15
    ),
    Target("server CPU, REP, 1 % traced", "tracing", "cpu_us", "dploylib, traced", SEND, at_most=1.6),
    # 25 us where the loop on pyzmq takes 13.5.
    Target("CPU of the front, REP, 2 workers", "front", "cpu_us", "front, 2 workers", "pyzmq", at_most=1.85),
    Target("CPU of the front, REP, 4 workers", "front", "cpu_us", "front, 4 workers", "pyzmq", at_most=1.85),
    Target("server CPU, all figures on", "monitoring", "cpu_us", "monitoring on", "monitoring off", at_most=1.1),
    Target("requests/s, handlers that compute", "computing", "throughput", "2 workers", "1 worker", at_least=1.8),
    Target("jobs/s, in memory", "queue", "throughput", "in memory", at_least=20_000),
    Target("jobs/s, in SQLite", "queue", "throughput", "in SQLite", at_least=5_000),
    Target("10,000 waiting handlers: s until all are answered", "waiting", "seconds", SEND, at_most=1.5),
    Target("10,000 waiting handlers: KiB each", "waiting", "handler_kib", SEND, at_most=12),
    Target("import: ms", "import", "import_ms", "import dploylib", at_most=30),
    Target("import: ms", "import", "import_ms", "import dploylib.services", at_most=200),
    Target("first reply after exec: ms", "first-reply", "first_reply_ms", "dploylib run", at_most=600),
)
