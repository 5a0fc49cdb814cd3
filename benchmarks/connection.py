"""Connections of the load generator: plain TCP sockets, and what is on its way in them."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from benchmarks.wire import Wire

READ_BYTES = 1 << 16  # at most, of one read
PATIENCE_SECONDS = 20.0  # a server that says nothing for so long is given up


WireT = TypeVar("WireT", bound=Wire)


class ServerGone(Exception):
    """The server closed the connection."""


class Connection(Generic[WireT]):
    """A TCP connection to the server, the requests on their way in it, and how long each took."""

    def __init__(
        self,
        endpoint: str,
        wire: WireT,
        latencies: list[tuple[int, int]] | None = None,
        read_bytes: int = READ_BYTES,
    ) -> None:
        host, port = endpoint.removeprefix("tcp://").split(":")
        self.wire = wire
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A timeout in Python makes the socket non-blocking and costs a poll a call; these are the kernel's.
        self.socket.settimeout(None)
        patience = struct.pack("ll", int(PATIENCE_SECONDS), 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        self.latencies: list[tuple[int, int]] = [] if latencies is None else latencies  # runs of (ns, how many)
        self.on_the_way = 0
        self._sent: deque[list[int]] = deque()  # runs of [time sent in ns, how many], the oldest first
        self._buffer = memoryview(bytearray(read_bytes))

    def shake_hands(self) -> Connection[WireT]:
        """Exchange what the protocol wants to have exchanged before the first request."""
        self.flush()
        while not self.wire.ready:
            self.receive()
        return self

    def flush(self) -> None:
        """Send what the protocol itself wants to have sent."""
        if self.wire.outgoing:
            self.socket.sendall(self.wire.outgoing)
            self.wire.outgoing.clear()

    def receive(self) -> int:
        """Read once, and return how many replies that completed."""
        try:
            size = self.socket.recv_into(self._buffer)
        except BlockingIOError as error:
            raise ServerGone(f"the server said nothing for {PATIENCE_SECONDS:.0f} s") from error
        if not size:
            raise ServerGone("the server closed the connection")
        replies = self.wire.receive(self._buffer[:size])
        if self.wire.outgoing:
            self.flush()
        return replies

    def request(self, count: int, now: int) -> None:
        """Send so many requests at once."""
        self._sent.append([now, count])
        self.on_the_way += count
        self.socket.sendall(self.wire.requests(count))

    def turn(self, again: bool = True) -> int:
        """Read once, send as many requests as replies came unless it is not `again`, and return their number."""
        replies = self.receive()
        if replies:
            now = time.perf_counter_ns()
            self._land(replies, now)
            if again:
                self.request(replies, now)
        return replies

    def answered(self) -> Connection[WireT]:
        """Read until nothing is on the way any more, and no part of a reply is left over."""
        while self.on_the_way:
            self.turn(again=False)
        self.wire.finish()
        return self

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def _land(self, replies: int, now: int) -> None:
        self.on_the_way -= replies
        while replies:
            run = self._sent[0]
            landed = min(replies, run[1])
            self.latencies.append((now - run[0], landed))
            replies -= landed
            run[1] -= landed
            if not run[1]:
                self._sent.popleft()


class Poller(Generic[WireT]):
    """Tells which connections have something to read."""

    def __init__(self, connections: Sequence[Connection[WireT]]) -> None:
        self._connections = {connection.socket.fileno(): connection for connection in connections}

    def __enter__(self) -> Poller[WireT]:
        self._epoll = select.epoll(len(self._connections))
        for descriptor in self._connections:
            self._epoll.register(descriptor, select.EPOLLIN)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._epoll.close()

    def some(self, seconds: float) -> list[Connection[WireT]]:
        """Return the connections that can be read, after at most so many seconds."""
        return [self._connections[descriptor] for descriptor, _ in self._epoll.poll(seconds)]

    def readable(self) -> list[Connection[WireT]]:
        """Return the connections that can be read, at least one."""
        found = self.some(PATIENCE_SECONDS)
        if not found:
            raise ServerGone(f"the server said nothing for {PATIENCE_SECONDS:.0f} s")
        return found
