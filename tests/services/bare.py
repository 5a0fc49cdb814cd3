"""Peers of plain pyzmq, with and without keys, for the tests of what a service does with who connects to it."""

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import zmq
import zmq.green
from zmq.utils.monitor import parse_monitor_message

from dploylib.security import KeyPair

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too


def with_key(pair: KeyPair, server_key: str) -> dict[str, Any]:
    """The options of a client with this key, for a server with that one."""
    return {
        "curve_publickey": pair.public.encode(),
        "curve_secretkey": pair.secret,
        "curve_serverkey": server_key.encode(),
    }


def with_password(username: str, password: str) -> dict[str, Any]:
    """The options of a client with a password."""
    return {"plain_username": username.encode(), "plain_password": password.encode()}


class Bare:
    """A socket of pyzmq that is connected to an endpoint, once, and what its monitor says of that."""

    def __init__(self, context: zmq.green.Context, kind: str, endpoint: str, **options: Any) -> None:
        self.socket: Any = context.socket(getattr(zmq, kind.upper()))
        self.kind = kind
        for option, value in {"linger": 0, "reconnect_ivl": -1, **options}.items():
            self.socket.set(getattr(zmq, option.upper()), value)
        self._monitor: Any = self.socket.get_monitor_socket()
        self.socket.connect(endpoint)

    def hear(self, *names: str) -> str:
        """Wait for one of these events of libzmq, and return which it was. Those before it are forgotten."""
        with gevent.Timeout(PATIENCE, TimeoutError(f"none of {', '.join(names)} happened")):
            while True:
                name: str = parse_monitor_message(self._monitor.recv_multipart())["event"].name
                if name in names:
                    return name

    def heard(self) -> list[str]:
        """The events that nobody has waited for yet."""
        names = []
        with contextlib.suppress(zmq.Again):
            while True:
                names.append(parse_monitor_message(self._monitor.recv_multipart(zmq.DONTWAIT))["event"].name)
        return names

    def shake_hands(self) -> str:
        """How the handshake ends."""
        return self.hear(*(event.name for event in zmq.Event if "HANDSHAKE" in event.name))

    def send(self, text: str) -> None:
        """Send an envelope. A socket without a connection sends nothing, and does not wait."""
        delimiter = [] if self.kind in ("req", "push", "pub") else [b""]
        with contextlib.suppress(zmq.Again):
            self.socket.send_multipart([*delimiter, b"", b"text/plain", text.encode()], zmq.DONTWAIT)

    def receive(self) -> str:
        """The body of the next envelope."""
        with gevent.Timeout(PATIENCE, TimeoutError("nothing was received")):
            return str(self.socket.recv_multipart()[-1].decode())

    def ask(self, text: str) -> str:
        """Send an envelope, and return the body of the one that comes back."""
        self.send(text)
        return self.receive()

    def has_input(self) -> bool:
        """Whether something has come."""
        return bool(self.socket.get(zmq.EVENTS) & zmq.POLLIN)

    def close(self) -> None:
        """Close it. The monitor last: libzmq waits for it."""
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


@contextlib.contextmanager
def bare_context() -> Iterator[Any]:
    """`new(kind, endpoint, **options)`: a `Bare` in a context of its own, which ends with its peers."""
    context = zmq.green.Context()
    peers: list[Bare] = []

    def new(kind: str, endpoint: str, **options: Any) -> Bare:
        peers.append(Bare(context, kind, endpoint, **options))
        return peers[-1]

    try:
        yield new
    finally:
        for peer in peers:
            if not peer.socket.closed:
                peer.close()
        context.term()
