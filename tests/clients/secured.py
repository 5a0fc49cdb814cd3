"""Servers that look at who connects, of nothing but pyzmq, each in a context of its own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import gevent.server
import gevent.socket
import zmq
import zmq.green

from dploylib.security import KeyPair, Security

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
ANYWHERE = "tcp://127.0.0.1:*"
NEWS = [b"news", b"text/plain", b"sunny"]


class User(NamedTuple):
    """Somebody with PLAIN."""

    name: str
    password: str


class Secured:
    """A server that is bound: a `router` echoes, a `pub` publishes `news`, and a `pull` keeps the bodies in `pulled`.

    `pair` is its key (CURVE), `users` are those that may come in (PLAIN); without either it is open. `authorized` are
    the public keys that may. `denies` makes it let nobody in. `refused` counts whom it did not let in.
    """

    def __init__(
        self,
        kind: str,
        endpoint: str = ANYWHERE,
        pair: KeyPair | None = None,
        authorized: set[str] | None = None,
        users: set[User] | None = None,
        denies: bool = False,
        news: list[bytes] = NEWS,
    ) -> None:
        self.authorized = set() if authorized is None else authorized
        self.users = users or set()
        self.denies = denies
        self.refused = 0
        self.pulled: list[bytes] = []
        self.published = 0
        self._news = news
        self._context = zmq.green.Context()
        zap = self._context.socket(zmq.REP)
        zap.bind("inproc://zeromq.zap.01")
        self.socket = self._context.socket(getattr(zmq, kind.upper()))
        self.socket.linger = 0
        self.socket.zap_domain = b"test"
        if pair is not None:
            self.socket.curve_server = 1
            self.socket.curve_secretkey = pair.secret
        elif users is not None:
            self.socket.plain_server = 1
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_ALL)
        self._bind(endpoint)
        self.endpoint = self.socket.last_endpoint.decode()
        serve = {"router": self._echo, "pub": self._publish, "pull": self._pull}[kind]
        self._greenlets = [gevent.spawn(self._decide, zap), gevent.spawn(serve)]

    def _bind(self, endpoint: str) -> None:
        with gevent.Timeout(PATIENCE, AssertionError(f"{endpoint} stays in use")):
            while True:
                try:
                    return self.socket.bind(endpoint)
                except zmq.ZMQError as error:  # the server before this one is not done with it
                    if error.errno != zmq.EADDRINUSE:
                        raise
                    gevent.sleep(0.005)

    def handshakes(self) -> list[str]:
        """How the handshakes have ended, until one has succeeded: events of its monitor, which are taken away."""
        ended: list[str] = []
        with gevent.Timeout(PATIENCE, AssertionError("no handshake succeeds")):
            while ended[-1:] != ["HANDSHAKE_SUCCEEDED"]:
                number = int.from_bytes(self._monitor.recv_multipart()[0][:2], sys.byteorder)
                ended += [name for name in [zmq.Event(number).name] if name.startswith("HANDSHAKE")]
        return ended

    def close(self) -> None:
        gevent.killall(self._greenlets)
        if not self.socket.closed:
            self.socket.disable_monitor()
        self._context.destroy(linger=0)

    def _decide(self, zap: Any) -> None:
        """Answer the questions of libzmq (ZeroMQ RFC 27)."""
        while True:
            version, request, _, _, _, mechanism, *credentials = zap.recv_multipart()
            allowed = not self.denies and self._allows(mechanism, credentials)
            self.refused += not allowed
            zap.send_multipart([version, request, b"200" if allowed else b"400", b"", b"", b""])

    def _allows(self, mechanism: bytes, credentials: list[bytes]) -> bool:
        if mechanism == b"CURVE":
            return zmq.utils.z85.encode(credentials[0]).decode() in self.authorized
        return mechanism == b"NULL" or User(*(part.decode() for part in credentials)) in self.users

    def _echo(self) -> None:
        while True:
            self.socket.send_multipart(self.socket.recv_multipart())

    def _publish(self) -> None:
        while True:
            self.socket.send_multipart(self._news)
            self.published += 1
            gevent.sleep(0.01)

    def _pull(self) -> None:
        while True:
            self.pulled.append(self.socket.recv_multipart()[-1])


@contextlib.contextmanager
def starting() -> Iterator[Callable[..., Secured]]:
    """`start("router", pair=SERVER)`: a server that is closed at the end of this."""
    servers: list[Secured] = []

    def start(*arguments: Any, **settings: Any) -> Secured:
        servers.append(Secured(*arguments, **settings))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            server.close()


class Interrupting:
    """Stands before a server with CURVE, and interrupts the next `interruptions` handshakes.

    It does so when the client has greeted, and begins to prove something: what a server does that is killed then.
    """

    def __init__(self, endpoint: str) -> None:
        self.interruptions = 0
        self._behind = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self._open: set[Any] = set()
        self._server = gevent.server.StreamServer(("127.0.0.1", 0), self._handle)
        self._server.start()
        self.endpoint = f"tcp://127.0.0.1:{self._server.server_port}"

    def _handle(self, client: Any, _: Any) -> None:
        with gevent.socket.create_connection(self._behind) as server:
            back = gevent.spawn(self._copy, server, client)
            self._open.add(client)
            try:
                self._copy(client, server, self._interrupts)
            finally:
                self._open.discard(client)
                back.kill()
                client.close()

    def _interrupts(self, seen: int) -> bool:
        if seen > 64 and self.interruptions:
            self.interruptions -= 1
            return True
        return False

    @staticmethod
    def _copy(source: Any, target: Any, stops: Any = lambda seen: False) -> None:
        seen, greeted = 0, False
        try:
            while data := source.recv(65536):
                seen += len(data)
                if not greeted and seen > 64:
                    greeted = True
                    if stops(seen):
                        return
                target.sendall(data)
        except OSError:
            pass

    def break_all(self) -> None:
        """Break all connections that there are."""
        for client in list(self._open):
            client.shutdown(gevent.socket.SHUT_RDWR)

    def close(self) -> None:
        self.break_all()
        self._server.stop(timeout=PATIENCE)


def plain(user: User) -> Security:
    return Security(username=user.name, password=user.password)
