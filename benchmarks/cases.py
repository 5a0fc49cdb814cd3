"""What is measured: a table of cases, each with its contenders. To add a case, add a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch

C_ECHO = "c/echo.c"


@dataclass(frozen=True)
class Contender:
    """One of those that are compared: how its server is started, and what it speaks.

    With a `client`, that is what is compared, and the server only answers it.
    """

    name: str
    script: str = ""  # a module in benchmarks.servers, or `C_ECHO`
    options: tuple[str, ...] = ()
    protocol: str = "zmtp"
    needs: str = ""  # a module that has to be installed
    client: tuple[str, ...] = ()  # a module in benchmarks.clients, and which of its ways to call


@dataclass(frozen=True)
class Case:
    """One thing to measure. What the numbers mean is for `kind` to say.

    See generator.py, startup.py, memory.py, and for clients clients/common.py.
    """

    name: str
    title: str
    kind: str
    contenders: tuple[Contender, ...]
    role: str = ""  # of the server
    body_bytes: int = 64
    json: bool = False
    connections: int = 1
    outstanding: int = 1  # requests on their way at once, a connection; of a client, how many call at once
    busy_hub: bool = False  # a greenlet of the client waits for something else meanwhile
    count: int = 0  # messages, in cases that measure a number of them and not a time
    sockets: int = 1  # of the server
    rcvhwm: int = 0  # of its sockets; 0: no limit
    seconds: float | None = None  # measured, if it is not what the command line says
    rounds: int = 5  # if the command line does not say otherwise
    fresh: bool = False  # each round has new servers
    vary: str = ""  # of what there are more in a second server

    def quicker(self) -> Case:
        """Return the same in small, to see that it works."""
        seconds = None if self.seconds is None else self.seconds / 3
        if self.kind == "waiting":  # whose count is in its name, and which takes long
            return replace(self, rounds=1)
        return replace(self, count=self.count // 5, seconds=seconds, rounds=2)


SEND = Contender("dploylib", "dploylib_")
RETURN = Contender("dploylib return", "dploylib_", ("--handler", "return"))
MANY = Contender("dploylib concurrency=100", "dploylib_", ("--handler", "return", "--concurrency", "100"))
PYZMQ = Contender("pyzmq", "pyzmq_")
GREEN = Contender("zmq.green", "green")
ASYNCIO = Contender("asyncio pyzmq", "asyncio_")
ZERORPC = Contender("zerorpc", "zerorpc_", protocol="zerorpc", needs="zerorpc")
GRPC = Contender("grpc", "grpc_", protocol="grpc", needs="grpc")
C = Contender("libzmq in C", C_ECHO)

ON_REP = (SEND, RETURN, MANY, PYZMQ, GREEN, ASYNCIO, ZERORPC, GRPC, C)
ON_ROUTER = (SEND, RETURN, PYZMQ, GREEN, ASYNCIO, C)
FRONT = Contender("front, 2 workers", "front_")
ON_FRONT = (
    FRONT,
    Contender("front, 4 workers", "front_", ("--workers", "4")),
    Contender("zmq.proxy, 2 workers", "proxy"),
    Contender("zmq.proxy, 4 workers", "proxy", ("--workers", "4")),
    RETURN,
    PYZMQ,
)
MONITORED = (
    Contender("monitoring off", "dploylib_", ("--handler", "return", "--monitoring", "off")),
    Contender("monitoring on", "dploylib_", ("--handler", "return", "--monitoring", "on")),
)
SERVED = (Contender("1 worker", "serve", ("--workers", "1")), Contender("2 workers", "serve"))
LOOPS = (SEND, PYZMQ, GREEN, ASYNCIO)

IDLE = (SEND, GREEN, ASYNCIO)

CHOICES = (
    SEND,
    RETURN,
    Contender("return, timeout=5", "dploylib_", ("--handler", "return", "--timeout", "5")),
    MANY,
    Contender("each one waits", "dploylib_", ("--handler", "wait", "--concurrency", "100")),
)

IN_JSON = (
    SEND,
    Contender("pyzmq, msgspec", "pyzmq_", ("--handler", "msgspec")),
    Contender("pyzmq, json", "pyzmq_", ("--handler", "json")),
)
WAITING = 10_000
AT_ONCE = (Contender("dploylib", "dploylib_", ("--concurrency", str(WAITING))), GREEN, ASYNCIO)
IMPORTS = tuple(
    Contender(f"import {name}", needs=name.partition(".")[0])
    for name in ("dploylib", "dploylib.services", "zmq.green", "zerorpc", "grpc")
)
STARTED = (Contender("dploylib run", "service"), PYZMQ, GREEN, ASYNCIO, ZERORPC, GRPC)


def client(name: str, module: str, way: str, server: Contender) -> Contender:
    """Return a client, with the server that it asks."""
    return replace(server, name=f"{name} -> {server.name}", client=(module, way))


OURS = replace(RETURN, name="dploylib")  # as a server
FAST_ZERORPC = Contender("msgpack echo", "zerorpc_echo", needs="zerorpc")
CLIENT_1 = (
    client("dploylib", "dploylib_", "client", PYZMQ),
    client("dploylib", "dploylib_", "client", OURS),
    client("pyzmq REQ", "pyzmq_", "req", PYZMQ),
    client("pyzmq REQ", "pyzmq_", "req", OURS),
    client("zerorpc", "zerorpc_", "client", ZERORPC),
    client("grpc", "grpc_", "stub", GRPC),
)
CLIENT_1_GREEN = (
    client("dploylib", "dploylib_", "client", PYZMQ),
    client("dploylib REQ", "dploylib_", "req", PYZMQ),
    client("zmq.green REQ", "green", "req", PYZMQ),
    client("pyzmq REQ", "pyzmq_", "req", PYZMQ),
)
CLIENT_100 = (
    client("dploylib", "dploylib_", "client", OURS),
    client("dploylib", "dploylib_", "client", PYZMQ),
    client("dploylib", "dploylib_", "client", C),
    client("100 dploylib REQ", "dploylib_", "req", PYZMQ),
    client("100 zmq.green REQ", "green", "req", PYZMQ),
    client("zmq.green DEALER", "green", "dealer", PYZMQ),
    client("zerorpc", "zerorpc_", "client", ZERORPC),
    client("zerorpc", "zerorpc_", "client", FAST_ZERORPC),
    client("grpc", "grpc_", "stub", GRPC),
)

QUEUES = (
    Contender("in memory", "dploylib_", ("--handler", "memory")),
    Contender("in SQLite", "dploylib_", ("--handler", "file")),
    Contender("in SQLite, no fsync", "dploylib_", ("--handler", "no-fsync")),
)

# The generator speaks no CURVE itself, so that all of these are asked by the same client of pyzmq.
SECURED = tuple(
    replace(one, name=f"{one.name}, {what}", options=(*one.options, "--curve") if what == "CURVE" else one.options)
    for one in (SEND, PYZMQ)
    for what in ("open", "CURVE")
)

TRACED = (
    SEND,
    Contender("dploylib, traced", "dploylib_", ("--tracing", "0.01"), needs="opentelemetry"),
)

CASES = (
    *(
        Case(f"rep-64B-{n}", f"REP echo, 64 B, {n:,} outstanding", "echo", ON_REP, role="rep", outstanding=n)
        for n in (1, 10, 100, 1000)
    ),
    *(
        Case(
            f"router-64B-{n}", f"ROUTER echo, 64 B, {n:,} outstanding", "echo", ON_ROUTER, role="router", outstanding=n
        )
        for n in (1, 10, 100, 1000)
    ),
    *(
        Case(
            f"rep-{size}{unit}",
            f"REP echo, {size} {unit}, {n} outstanding",
            "echo",
            (*LOOPS, C),
            role="rep",
            body_bytes=size * octets,
            outstanding=n,
        )
        for size, unit, octets, n in ((1, "KB", 1 << 10, 100), (64, "KB", 1 << 10, 10), (1, "MB", 1 << 20, 4))
    ),
    Case("choices", "REP echo, 64 B, 100 outstanding", "echo", CHOICES, role="rep", outstanding=100),
    # Some seconds, since somebody asks each second.
    Case("monitoring", "REP echo, 64 B, 100 outstanding", "echo", MONITORED, role="rep", outstanding=100, seconds=3),
    Case("json", "JSON in and out on REP, 100 outstanding", "echo", IN_JSON, role="json", json=True, outstanding=100),
    Case("clients", "REP echo, 64 B, 1,000 connections, 1 outstanding", "echo", ON_REP, role="rep", connections=1000),
    Case("client-1", "A client in a script, 64 B, one call after the other", "client", CLIENT_1, role="rep"),
    Case(
        "client-1-green",
        "The same while a greenlet waits for something else",
        "client",
        CLIENT_1_GREEN,
        role="rep",
        busy_hub=True,
    ),
    Case("client-100", "100 greenlets (gRPC: threads) call, 64 B", "client", CLIENT_100, role="rep", outstanding=100),
    *(
        Case(
            f"secured-{role}",
            f"{role.upper()} echo, 64 B, 100 outstanding, asked by pyzmq",
            "secured",
            SECURED,
            role,
            outstanding=100,
        )
        for role in ("rep", "router")
    ),
    Case("tracing", "REP echo, 64 B, 100 outstanding, 1 % traced", "echo", TRACED, role="rep", outstanding=100),
    Case("front", "REP echo through a front, 64 B, 100 outstanding", "echo", ON_FRONT, role="rep", outstanding=100),
    Case(
        "computing",
        "dploylib serve, handlers that compute for some ms, 16 outstanding",
        "served",
        SERVED,
        role="computing",
        outstanding=16,
        seconds=2,
    ),
    Case("pull", "PULL sink, 64 B", "pull", LOOPS, role="pull", count=100_000, rcvhwm=1000),
    *(
        Case(f"pub-{n}", f"PUB, 64 B, subscribers: {n}", "pub", LOOPS, role="pub", connections=n, count=count)
        for n, count in ((1, 50_000), (10, 20_000), (100, 4000))
    ),
    Case("waiting", "10,000 handlers wait for 1 s", "waiting", AT_ONCE, "waiting", count=WAITING, rounds=3, fresh=True),
    Case("backlog", "PULL, a backlog of 300,000", "backlog", LOOPS, "backlog", count=300_000, rounds=3),
    Case("queue", "QueueServer: put, take and done, 64 B, 100 at once", "queue", QUEUES, role="queue", outstanding=100),
    Case("idle", "100 idle PULL sockets", "idle", IDLE, "idle", sockets=100, seconds=3, rounds=3),
    Case("import", "Import time", "import", IMPORTS, rounds=10),
    Case("first-reply", "From exec to the first reply", "first-reply", STARTED, "rep"),
    Case("memory-socket", "Memory per PULL socket", "memory", (SEND, GREEN), "idle", vary="sockets", rounds=3),
    Case("memory-server", "Memory per server with one PULL", "memory", (SEND,), "idle", vary="servers", rounds=3),
)


def chosen(patterns: tuple[str, ...]) -> Iterator[Case]:
    """Yield the cases whose names match one of the patterns, as in a shell, or all."""
    for case in CASES:
        if not patterns or any(fnmatch(case.name, one) for one in patterns):
            yield case
