"""Why an endpoint cannot be reached, and how its server wants to be talked to. libzmq does not say, so it is asked."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import gevent
from gevent import socket
from gevent.lock import BoundedSemaphore

__all__ = ["PATIENCE", "Diagnosis", "connected_to", "mechanism_at", "read_exactly"]

PATIENCE = 0.3
"""Seconds for which somebody who is asked may be silent."""

_VALID = 1.0  # seconds
_MECHANISMS = ("NULL", "PLAIN", "CURVE", "GSSAPI")
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_MAJOR_VERSION = b"\x03"


class Diagnosis:
    """Says why nobody can be reached at an endpoint, by trying it.

    Many may ask at once; the answer is good for a second.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = BoundedSemaphore(1)
        self._made_at = float("-inf")
        self._reason = ""

    def make(self) -> str:
        """The reason, in words of the system ("Connection refused"), or '' if there is none to be found."""
        with self._lock:
            if time.monotonic() - self._made_at > _VALID:
                self._reason = _why_unreachable(self._uri)
                self._made_at = time.monotonic()
            return self._reason


def _why_unreachable(uri: str) -> str:
    try:
        probe = connected_to(uri)
        if probe is not None:
            probe.close()
    except socket.gaierror as error:
        return f"the host {_host_and_port(uri)[0]!r} has no address ({error.strerror})"
    except OSError as error:
        return (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    except (ValueError, UnicodeError):  # not the form of an endpoint; libzmq takes more forms than this
        pass
    return ""


def mechanism_at(uri: str) -> str:
    """Which security mechanism the server at an endpoint wants, as ZMTP calls it (`CURVE`); '' if it does not say.

    It says so to who speaks version 3 of ZMTP, before it has heard what that one wants (ZeroMQ RFC 23).
    """
    with contextlib.suppress(OSError, ValueError), gevent.Timeout(PATIENCE, False):  # type: ignore[arg-type]
        probe = connected_to(uri)
        if probe is not None:
            with probe:
                probe.sendall(_SIGNATURE + _MAJOR_VERSION)
                greeting = read_exactly(probe, 32)
            mechanism = greeting[12:].rstrip(b"\0").decode(errors="replace")
            if greeting[0] == 0xFF and greeting[9] == 0x7F and greeting[10] >= 3 and mechanism in _MECHANISMS:
                return mechanism
    return ""


def connected_to(uri: str) -> Any:
    """A plain socket that is connected to an endpoint, with `PATIENCE` as its timeout; None for other transports.

    Raises `OSError`, or `ValueError` for what libzmq alone understands.
    """
    transport, _, address = uri.partition("://")
    if transport == "tcp":
        return socket.create_connection(_host_and_port(uri), PATIENCE)
    if transport != "ipc":
        return None
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.settimeout(PATIENCE)
        probe.connect("\0" + address[1:] if address.startswith("@") else address)
    except BaseException:
        probe.close()
        raise
    return probe


def read_exactly(probe: Any, count: int) -> bytes:
    """So many bytes from a plain socket. Raises `OSError`, also when it is closed before."""
    data = b""
    while len(data) < count:
        more = probe.recv(count - len(data))
        if not more:
            raise ConnectionResetError(f"closed after {len(data)} of {count} bytes")
        data += more
    return data


def _host_and_port(uri: str) -> tuple[str, int]:
    host, _, port = uri.partition("://")[2].rpartition(";")[2].rpartition(":")
    return host.strip("[]"), int(port)
