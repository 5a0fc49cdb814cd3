"""A TCP proxy between a peer and a service, for what networks do: delay, stall, and cut connections anywhere."""

import contextlib
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pool import Group
from gevent.server import StreamServer


class FlakyProxy:
    """Passes on what comes, both ways, until it is told otherwise.

    `delay` is in seconds, for each piece. `passed_up` counts the bytes that went to the service, `passed_down` those
    to the peers, of all connections.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._there = (host, int(port))
        self._flows = Event()
        self._flows.set()
        self._pumps = Group()
        self._sockets: set[Any] = set()
        self._allowed: dict[str, float] = {"up": float("inf"), "down": float("inf")}
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.endpoint = f"tcp://127.0.0.1:{self._server.server_port}"
        self.delay = 0.0
        self.passed = {"up": 0, "down": 0}
        self.cuts = 0
        self.connections = 0

    def cut_after(self, up: float = float("inf"), down: float = float("inf")) -> None:
        """Cut all connections when this many more bytes have passed up or down. Then everything passes again."""
        self._allowed = {"up": up, "down": down}

    def cut(self) -> None:
        """Cut all connections now."""
        self.cuts += 1
        self._allowed = {"up": float("inf"), "down": float("inf")}
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        """Pass nothing on, and leave the connections open."""
        self._flows.clear()

    def resume(self) -> None:
        """Pass on what came meanwhile, and what comes."""
        self._flows.set()

    def close(self) -> None:
        self._server.stop()
        self._pumps.kill()
        for one in list(self._sockets):
            one.close()

    def _serve(self, peer: Any, address: object) -> None:
        self.connections += 1
        with peer, socket.create_connection(self._there) as service:
            self._sockets |= {peer, service}
            pumps = [self._pumps.spawn(self._pump, *ends) for ends in ((peer, service, "up"), (service, peer, "down"))]
            gevent.joinall(pumps)
            self._sockets -= {peer, service}

    def _pump(self, source: Any, sink: Any, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                gevent.sleep(self.delay)
                self._flows.wait()
                data = data[: int(min(len(data), self._allowed[way]))]
                sink.sendall(data)
                self.passed[way] += len(data)
                self._allowed[way] -= len(data)
                if self._allowed[way] <= 0:
                    self.cut()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
