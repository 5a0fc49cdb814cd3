"""The load generator: a process of its own, in the standard library only, that measures one server once.

Only of the case `secured`, for which it would have to encrypt, pyzmq takes its place.

    python -m benchmarks.generator '{"kind": "echo", "pid": 4711, "endpoints": ["tcp://127.0.0.1:5000"], ...}'

The argument is a `Load`. The result is one JSON object on stdout, whose names say their units.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import termios
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks import process
from benchmarks.connection import PATIENCE_SECONDS, READ_BYTES, Connection, Poller, ServerGone
from benchmarks.load import Load
from benchmarks.meter import Meter, percentiles
from benchmarks.wire import Counted, JobTaker, Pusher, Putter, Subscriber, Wire, Zmtp, zmtp_message
from benchmarks.wire_grpc import Grpc
from benchmarks.wire_zerorpc import ZeroRpc

STILL_SECONDS = 0.02  # a process that used no CPU for so long has done what there was to do
BURST, FENCE = b"burst", b"fence"  # what the control socket of a publisher takes; anything else it publishes as it is
PUSHED_AT_ONCE = 1000  # messages
PROBE_SECONDS = 0.01  # between two probes for subscribers


def echo_wire(load: Load) -> Wire:
    """Return the client's side of an echo in the protocol of the load."""
    if load.protocol == "zerorpc":
        return ZeroRpc(load.body)
    if load.protocol == "grpc":
        return Grpc("/benchmarks.Echo/Echo", load.body)
    frames = [b"", *load.envelope(load.body)]  # an empty delimiter first: a DEALER is to a REP what a REQ is
    return Counted("dealer", frames, frames, load.outstanding)


def echo(load: Load, *others: int) -> dict[str, Any]:
    """Keep `outstanding` requests on their way in every connection, for a warm-up and a measured time.

    `others` are processes that belong to the server.
    """
    latencies: list[tuple[int, int]] = []
    read_bytes = max(READ_BYTES, min(load.body_bytes * load.outstanding, 1 << 20))
    connections = [
        Connection(load.endpoints[0], echo_wire(load), latencies, read_bytes) for _ in range(load.connections)
    ]
    for connection in connections:
        connection.shake_hands()
    for connection in connections:
        connection.request(load.outstanding, time.perf_counter_ns())
    turns = all_turns(connections)
    run_for(load.warm_up_seconds, turns)
    latencies.clear()
    meter = Meter(load.pid, *others)
    result = meter.stop(run_for(load.seconds, turns))
    result |= percentiles(latencies)
    for connection in connections:
        connection.answered()
    return result


def served(load: Load) -> dict[str, Any]:
    """Do the same with a daemon, whose CPU is that of all its processes."""
    return echo(load, *process.family(load.pid)[1:])


def secured(load: Load) -> dict[str, Any]:
    """Do the same as `echo` does with one connection, by pyzmq: the second endpoint, if there is one, is a key."""
    import zmq
    import zmq.backend

    endpoint, *keys = load.endpoints
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.SNDHWM, 0)
        client.setsockopt(zmq.RCVTIMEO, int(PATIENCE_SECONDS * 1000))
        for key in keys:
            client.curve_serverkey = key.encode()
            client.curve_publickey, client.curve_secretkey = zmq.curve_keypair()
        client.connect(endpoint)
        frames = [b"", *load.envelope(load.body)]
        sent: deque[int] = deque()
        latencies: list[tuple[int, int]] = []

        # Below the Python layer of pyzmq, with plain numbers, which makes it two or three times as fast.
        send, receive = zmq.backend.Socket.send, zmq.backend.Socket.recv
        flags = [int(zmq.SNDMORE)] * (len(frames) - 1) + [0]

        def turns() -> Iterator[int]:
            while True:
                for _ in range(load.outstanding - len(sent)):
                    sent.append(time.perf_counter_ns())
                    for frame, more in zip(frames, flags, strict=True):
                        send(client, frame, more)
                before, wait = len(sent), 0
                with contextlib.suppress(zmq.Again):
                    while sent:
                        if [receive(client, wait) for _ in frames] != frames:
                            raise ServerGone("the server sent another reply than was expected")
                        latencies.append((time.perf_counter_ns() - sent.popleft(), 1))
                        wait = int(zmq.DONTWAIT)
                yield before - len(sent)

        each = turns()
        run_for(load.warm_up_seconds, each)
        latencies.clear()
        meter = Meter(load.pid)
        result = meter.stop(run_for(load.seconds, each))
        while sent:
            client.recv_multipart()
            sent.popleft()
    return result | percentiles(latencies)


def run_for(seconds: float, turns: Iterator[int]) -> int:
    """Take turns for so long, and until a reply has come. Return how many came."""
    until = time.perf_counter() + seconds
    replies = 0
    while time.perf_counter() < until or not replies:
        replies += next(turns)
    return replies


def all_turns(connections: Sequence[Connection[Wire]]) -> Iterator[int]:
    """Take a turn with each connection that has something to read, and yield the number of its replies, for ever."""
    if len(connections) == 1:  # no epoll: the latency is to be the server's
        turn = connections[0].turn
        while True:
            yield turn()
    with Poller(connections) as poller:
        while True:
            for connection in poller.readable():
                yield connection.turn()


def pull(load: Load) -> dict[str, Any]:
    """Push `count` messages twice, for warming up and for measuring, until the server says that it has all."""
    connection = pusher(load)
    push(connection, load.count)
    read_done()
    meter = Meter(load.pid)
    push(connection, load.count)
    read_done()
    return meter.stop(load.count)


def pusher(load: Load) -> Connection[Pusher]:
    """Connect to a PULL."""
    return Connection(load.endpoints[0], Pusher(load.envelope(load.body), PUSHED_AT_ONCE)).shake_hands()


def push(connection: Connection[Pusher], count: int) -> None:
    """Push so many messages, a thousand a call."""
    while count:
        batch = min(count, PUSHED_AT_ONCE)
        connection.socket.sendall(connection.wire.requests(batch))
        count -= batch


def read_done() -> float:
    """Wait for the server to say that it is done, and return the figure that it says with it."""
    word, figure = sys.stdin.readline().split()
    if word != "done":
        raise ServerGone(f"the server said {word!r}")
    return float(figure)


def pub(load: Load) -> dict[str, Any]:
    """Have `count` messages published, and wait until each of `connections` subscribers has all of them."""
    message = load.envelope(load.body)
    subscribers = [Connection(load.endpoints[0], Subscriber(message, FENCE)) for _ in range(load.connections)]
    for one in subscribers:
        one.shake_hands()
    control = Connection(load.endpoints[1], Zmtp("push")).shake_hands()
    with Poller(subscribers) as poller:
        subscribe(control, subscribers, poller, load)
        expected = load.count * load.connections
        meter = Meter(load.pid)
        control.socket.sendall(zmtp_message(load.envelope(BURST)))
        while expected:
            expected -= sum(one.receive() for one in poller.readable())
        result = meter.stop(load.count)
    for one in subscribers:
        one.wire.finish()
    return result


def subscribe(
    control: Connection[Zmtp], subscribers: Sequence[Connection[Subscriber]], poller: Poller[Subscriber], load: Load
) -> None:
    """Wait until all subscribers get what is published, and have got everything that was.

    A PUB does not say when it has taken a subscription. So it is made to publish until every subscriber got something,
    and then a fence, after which nothing is on the way to anybody.
    """
    while not all(one.wire.probed for one in subscribers):
        control.socket.sendall(zmtp_message(load.envelope(b"probe")))
        for one in poller.some(PROBE_SECONDS):
            one.receive()
    control.socket.sendall(zmtp_message(load.envelope(FENCE)))
    while not all(one.wire.fenced for one in subscribers):
        for one in poller.readable():
            one.receive()


def waiting(load: Load) -> dict[str, Any]:
    """Send `count` requests at once to handlers that each wait for a second, and see when all are answered."""
    frames = [b"", *load.envelope(load.body)]
    connection = Connection(load.endpoints[0], Counted("dealer", frames, frames, load.count)).shake_hands()
    connection.request(1, time.perf_counter_ns())
    connection.answered()
    before = process.resident(load.pid)
    connection.latencies.clear()
    meter = Meter(load.pid)
    connection.request(load.count, time.perf_counter_ns())
    connection.answered()
    result = meter.stop(load.count)
    grown = process.peak_resident(load.pid) - before
    return result | percentiles(connection.latencies) | {"handler_kib": grown / 1024 / load.count}


def backlog(load: Load) -> dict[str, Any]:
    """Send `count` messages to a server that is blocked, let it go, and see how it works them off."""
    connection = pusher(load)
    push(connection, 1)  # the one whose handler blocks
    push(connection, load.count)
    wait_until_received(load.pid, connection)
    meter = Meter(load.pid)
    os.write(load.release_fd, b"\n")
    longest_gap_us = read_done()
    return meter.stop(load.count) | {"longest_gap_ms": longest_gap_us / 1e3}


def wait_until_received(pid: int, connection: Connection[Pusher]) -> None:
    """Wait until a server whose main thread is blocked has taken all that was sent to it."""
    while unacknowledged(connection):
        time.sleep(STILL_SECONDS)
    used, before = process.cpu(pid).process, -1
    while used != before:
        time.sleep(STILL_SECONDS)
        used, before = process.cpu(pid).process, used


def unacknowledged(connection: Connection[Pusher]) -> int:
    """Return how many octets the other side's kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
    answer: bytes = fcntl.ioctl(connection.socket, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


def queue(load: Load) -> dict[str, Any]:
    """Keep `outstanding` puts on their way in one connection, and take and do the jobs in another; count these."""
    work, put, _ = load.endpoints
    putter = Connection(put, Putter(load.envelope(load.body), load.outstanding)).shake_hands()
    taker = Connection(work, JobTaker(load.outstanding)).shake_hands()
    putter.request(load.outstanding, time.perf_counter_ns())
    with Poller[Any]([putter, taker]) as poller:
        turns = put_and_take(putter, taker, poller)
        run_for(load.warm_up_seconds, turns)
        putter.latencies.clear()
        meter = Meter(load.pid)
        result = meter.stop(run_for(load.seconds, turns))
    result |= percentiles(putter.latencies)
    putter.answered()
    return result


def put_and_take(putter: Connection[Putter], taker: Connection[JobTaker], poller: Poller[Any]) -> Iterator[int]:
    """Take a turn with whoever has something to read, and yield how many jobs are done by it, for ever."""
    while True:
        for connection in poller.readable():
            if connection is taker:
                yield taker.receive()
            else:
                putter.turn()


def idle(load: Load) -> dict[str, Any]:
    """See what a server uses that has nothing to do."""
    meter = Meter(load.pid)
    time.sleep(load.seconds)
    result = meter.stop(0)
    return result | {"idle_us_per_s": result["server_busy"] * 1e6}


KINDS: dict[str, Callable[[Load], dict[str, Any]]] = {
    "echo": echo,
    "served": served,
    "secured": secured,
    "pull": pull,
    "pub": pub,
    "waiting": waiting,
    "backlog": backlog,
    "queue": queue,
    "idle": idle,
}


def main() -> None:
    """Do what the argument says."""
    load = Load(**json.loads(sys.argv[1]))
    print(json.dumps(KINDS[load.kind](load)))


if __name__ == "__main__":
    main()
