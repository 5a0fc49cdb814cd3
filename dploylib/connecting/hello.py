"""Whether a server has a key. It is asked in the way of libzmq, before anybody has said who he is."""

from __future__ import annotations

import contextlib

import gevent
from gevent import socket

from ..errors import SocketClosed, TransportError
from ..security import Credentials
from ..transport import Context
from .diagnosis import PATIENCE, connected_to, read_exactly

__all__ = ["has_key"]

_SILENCE = 0.1  # seconds; who hangs up in these does so whatever the key is, having too many connections, say
_GREETING_LENGTH = 64
_HELLO_LENGTH = 202  # with flags and length
# Of a server with CURVE, in version 3.1 of ZMTP (ZeroMQ RFC 37).
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\x01" + bytes(31)


def has_key(uri: str, context: Context, credentials: Credentials) -> bool | None:
    """Whether the server of CURVE at an endpoint has the server key of these credentials. None if nobody can tell.

    Raises `SocketClosed` when the context was closed.

    The client begins with a HELLO that only who has the secret key can read, and a server that cannot hangs up (ZeroMQ
    RFC 26). So it does earlier or later, for other reasons, which libzmq does not tell apart.
    """
    with gevent.Timeout(_SILENCE + PATIENCE, False):  # type: ignore[arg-type]  # it is not raised
        try:
            hello = _hello(context, credentials)
            probe = connected_to(uri)
        except SocketClosed:
            raise
        except (OSError, ValueError, TransportError):
            return None
        if probe is not None:
            with probe:
                return _is_welcome(probe, hello)
    return None


def _is_welcome(probe: socket.socket, hello: bytes) -> bool | None:
    try:
        probe.sendall(hello[:_GREETING_LENGTH])
        read_exactly(probe, _GREETING_LENGTH)
        probe.settimeout(_SILENCE)
        with contextlib.suppress(TimeoutError):
            probe.recv(1)
            return None
        probe.settimeout(PATIENCE)
    except OSError:
        return None
    try:
        probe.sendall(hello[_GREETING_LENGTH:])
        return bool(probe.recv(1))
    except TimeoutError:
        return None
    except OSError:
        return False


def _hello(context: Context, credentials: Credentials) -> bytes:
    """What libzmq begins with when it talks to a server with this key: its greeting and the HELLO. Raises `OSError`.

    It says these to a socket of ours, since pyzmq has no cryptography of its own.
    """
    with socket.socket() as listener:
        listener.settimeout(PATIENCE)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        with context.socket("dealer", {"linger": 0}, credentials) as client:
            client.connect(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
            server, _ = listener.accept()
            with server:
                server.settimeout(PATIENCE)
                server.sendall(_GREETING)
                return read_exactly(server, _GREETING_LENGTH + _HELLO_LENGTH)
