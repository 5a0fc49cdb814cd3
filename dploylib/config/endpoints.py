"""The form of ZeroMQ endpoints, checked before any socket is made. See zmq_tcp(7), zmq_ipc(7) and zmq_inproc(7)."""

from __future__ import annotations

import difflib
from typing import Final

__all__ = ["TRANSPORTS", "endpoint_flaw"]

TRANSPORTS: Final = ("tcp", "ipc", "inproc", "tipc", "vmci", "pgm", "epgm", "udp", "ws", "wss")
"""The stable transports of libzmq 4.3."""

_IPC_PATH_LIMIT = 107  # bytes; sockaddr_un.sun_path has 108 on Linux, and the last is a NUL


def endpoint_flaw(uri: object) -> str | None:
    """What is wrong with an endpoint, or None. A value that is no string is left to the check of types.

    A whole number is the exception: it is most likely a port, and deserves a better answer than its type.
    """
    if isinstance(uri, int) and not isinstance(uri, bool):
        return _port_alone(str(uri)) if 0 <= uri <= 65535 else None
    return _text_flaw(uri) if isinstance(uri, str) else None


def _text_flaw(uri: str) -> str | None:
    transport, separator, address = uri.partition("://")
    if not separator:
        return _port_alone(uri) if uri.isdecimal() else _transport_missing(uri)
    if transport not in TRANSPORTS:
        return _transport_unknown(transport)
    if not address:
        return f"expected an address after {transport}://"
    if transport == "tcp":
        return _tcp_flaw(address)
    return _ipc_flaw(address) if transport == "ipc" else None


def _port_alone(port: str) -> str:
    return f"a port needs a transport and a host: tcp://127.0.0.1:{port}, or tcp://*:{port} to bind to all interfaces"


def _transport_missing(uri: str) -> str:
    hint = "" if _tcp_flaw(uri) else f"; did you mean 'tcp://{uri}'?"
    return f"expected a transport at the start, as in tcp://127.0.0.1:5000{hint}"


def _transport_unknown(transport: str) -> str:
    nearest = difflib.get_close_matches(transport.lower(), TRANSPORTS, n=2)  # both tcp and tipc are near to tpc
    hint = f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    return f"unknown transport{hint} (known transports: {', '.join(TRANSPORTS)})"


def _tcp_flaw(address: str) -> str | None:
    """`host:port`, or `source:port;host:port` for a connecting socket that chooses where it connects from."""
    if address.count(";") > 1:
        return "expected at most one ';', between the source address and the destination"
    return next((flaw for part in address.split(";") if (flaw := _host_and_port_flaw(part))), None)


def _host_and_port_flaw(address: str) -> str | None:
    host, separator, port = address.rpartition(":")
    if not separator or not host or any(character.isspace() or character == "/" for character in host):
        return "expected tcp://HOST:PORT"
    if port == "*" or (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535):
        return None
    return "expected a port from 0 to 65535, or * for any free port, after the last ':'"


def _ipc_flaw(path: str) -> str | None:
    size = len(path.encode(errors="surrogatepass"))
    return None if size <= _IPC_PATH_LIMIT else f"an ipc path has at most {_IPC_PATH_LIMIT} bytes, this one has {size}"
