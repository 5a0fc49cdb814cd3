"""A TCP proxy between a peer and a service, for what networks do: delay, throttle, stall, refuse, and cut anywhere."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pool import Group
from gevent.server import StreamServer

from ..errors import EndpointError
from ..transport.spawning import spawn_named

__all__ = ["FlakyProxy"]

_MOST = 65536  # bytes that are read at once
_PIECES = 10  # a second, at least, of what is throttled
_ALL = float("inf")


class FlakyProxy:
    """Passes on what comes, both ways, between peers that connect to `endpoint` and the service at the one given.

    For example::

        with FlakyProxy(service.endpoint("echo.request")) as proxy, Socket.new("req", proxy.endpoint) as client:
            proxy.cut_after(down=10)  # in the middle of the reply

    `delay` is in seconds, for each piece. `rate` is how many bytes a second pass each way of each connection. Both may
    be set at any time. `passed` counts the bytes that went to the service (`up`) and to the peers (`down`), `cuts` how
    often connections were cut, `connections` how many there were.

    It is made of greenlets: a test that blocks its hub stops the proxy, too. Raises `EndpointError` for an endpoint
    that is not of tcp.
    """

    def __init__(self, endpoint: str) -> None:
        transport, _, address = endpoint.partition("://")
        host, _, port = address.rpartition(":")
        if transport != "tcp" or not port.isdecimal():
            raise EndpointError(f"a FlakyProxy stands before tcp://HOST:PORT, not before {endpoint}")
        self._there = (host.strip("[]"), int(port))
        self._flows = Event()
        self._flows.set()
        self._serving = Group()
        self._sockets: set[Any] = set()
        self._allowed = {"up": _ALL, "down": _ALL}
        self._delay, self._rate = 0.0, _ALL
        self.passed = {"up": 0, "down": 0}
        self.cuts = 0
        self.connections = 0
        # It never listens: the port is ours also while connections are refused.
        self._port = _bound_socket(0)
        self.endpoint = f"tcp://127.0.0.1:{self._port.getsockname()[1]}"
        self._server: StreamServer | None = None
        self.accept()

    @property
    def delay(self) -> float:
        """Seconds for which each piece is held back. To set it raises `ValueError` for less than none."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        if not seconds >= 0:
            raise ValueError(f"a delay is a number of seconds from 0 on, not {seconds!r}")
        self._delay = seconds

    @property
    def rate(self) -> float:
        """Bytes a second that pass each way of each connection. To set it raises `ValueError` for none; see `stall`."""
        return self._rate

    @rate.setter
    def rate(self, bytes_a_second: float) -> None:
        if not bytes_a_second > 0:
            raise ValueError(f"a rate is a number of bytes a second above 0, not {bytes_a_second!r}; see stall()")
        self._rate = bytes_a_second

    def cut_after(self, up: float = _ALL, down: float = _ALL) -> None:
        """Cut all connections when this many more bytes have passed up or down. Then everything passes again.

        Raises `ValueError` for less than none.
        """
        if not (up >= 0 and down >= 0):
            raise ValueError(f"connections are cut after a number of bytes from 0 on, not {min(up, down)!r}")
        self._allowed = {"up": up, "down": down}

    def cut(self) -> None:
        """Cut all connections now. Peers may connect again."""
        self.cuts += 1
        self._allowed = {"up": _ALL, "down": _ALL}
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Pass nothing on, and leave the connections open."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what came meanwhile, and what comes."""
        self._flows.set()

    def refuse(self) -> None:
        """Refuse new connections, as where no service runs. Those that there are go on: see `cut`."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def accept(self) -> None:
        """Accept connections again, at the same endpoint."""
        if self._server is None:
            listener = _bound_socket(self._port.getsockname()[1])
            listener.listen(128)
            spawn: Any = self._spawn  # of which the stubs think otherwise
            self._server = StreamServer(listener, self._serve, spawn=spawn)
            self._server.start()

    def close(self) -> None:
        """End it, and all connections."""
        self.refuse()
        self._serving.kill()
        self._port.close()

    def __enter__(self) -> FlakyProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, serve: Any, *args: Any) -> gevent.Greenlet[..., Any]:
        greenlet = spawn_named(f"proxy at {self.endpoint}", serve, *args)
        self._serving.add(greenlet)
        return greenlet

    def _serve(self, peer: Any, address: object) -> None:
        self.connections += 1
        with peer:
            try:
                service = socket.create_connection(self._there)
            except OSError:  # it is down, or gone: the peer's connection is cut
                return
            with service:
                self._sockets |= {peer, service}
                pumps = [
                    spawn_named(f"proxy at {self.endpoint}, {way}", self._pump, source, sink, way)
                    for source, sink, way in ((peer, service, "up"), (service, peer, "down"))
                ]
                try:
                    gevent.joinall(pumps)
                finally:
                    gevent.killall(pumps)
                    self._sockets -= {peer, service}

    def _pump(self, source: Any, sink: Any, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_MOST):
                gevent.sleep(self.delay)
                while data:
                    size = int(min(_MOST, max(1, self.rate / _PIECES)))
                    gevent.sleep(min(size, len(data)) / self.rate)
                    self._flows.wait()
                    self._pass_on(data[:size], sink, way)
                    data = data[size:]
        self._flows.wait()  # a host that froze says nothing of an end, either
        for one in (sink, source):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, data: bytes, sink: Any, way: str) -> None:
        data = data[: int(min(len(data), self._allowed[way]))]
        sink.sendall(data)
        self.passed[way] += len(data)
        self._allowed[way] -= len(data)
        if self._allowed[way] <= 0:
            self.cut()


def _bound_socket(port: int) -> Any:
    """A socket that shares its port with others of this user, of which those that listen get the connections."""
    one = socket.socket()
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind(("127.0.0.1", port))
    except BaseException:
        one.close()
        raise
    return one
