"""The descriptors of libzmq's connections: where each is from, how far it has come, and its end.

They are libzmq's, which may close one at any moment, and then it may be another file of this process. A duplicate stays
what it is: it is looked at, and then used.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket as sockets
import struct
import sys
import termios
from collections.abc import Iterator
from typing import Any

import gevent.monkey

__all__ = ["COUNTS_OCTETS", "duplicate", "octets_sent", "shut_down", "where_from"]

COUNTS_OCTETS = sys.platform == "linux"
"""Whether `octets_sent` can tell."""

_PEERCRED = struct.Struct("3i")  # pid, uid, gid: struct ucred (unix(7))
_BYTES_ACKED = struct.Struct("=120xQ")  # tcpi_bytes_acked of struct tcp_info (linux/tcp.h), since Linux 4.1


@contextlib.contextmanager
def duplicate(descriptor: int) -> Iterator[sockets.socket | None]:
    """The connection behind a descriptor of libzmq's, for a moment; None when there is none any more.

    Where there is no descriptor left for a duplicate it is libzmq's own: whom nobody knows, nobody can put out.
    """
    number, is_ours = descriptor, False
    try:
        # Which may be the same number: libzmq has closed its own meanwhile, and that is free again.
        number, is_ours = os.dup(descriptor), True
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            yield None
            return
    connection = None
    try:
        with contextlib.suppress(OSError):  # it is no socket: the number is another file's by now
            # Or of another family: to look costs three calls, and their addresses fit where those of this one do.
            connection = _Original(sockets.AF_UNIX, sockets.SOCK_STREAM, 0, number)
        yield connection
    finally:
        if connection is not None:
            connection.detach()
        if is_ours:
            _close(number)


_Original: Any = gevent.monkey.get_original("socket", "socket")  # one of gevent would make the descriptor non-blocking
_close: Any = gevent.monkey.get_original("os", "close")  # that of gevent closes later, since somebody may wait for it


def where_from(connection: sockets.socket) -> tuple[str, object]:
    """Where a connection is from, as ZAP has it, and what tells it from others."""
    try:
        peer = connection.getpeername()
    except OSError:  # it is over
        return "", None
    if isinstance(peer, tuple):
        return str(peer[0]), peer
    pid, uid, gid = _credentials_of(connection)
    return f"localhost:{uid}:{gid}:{pid}", (pid, uid, gid)


def _credentials_of(connection: sockets.socket) -> tuple[int, int, int]:
    """pid, uid and gid of the process at the other end of an ipc connection."""
    with contextlib.suppress(OSError, AttributeError):
        pid, uid, gid = _PEERCRED.unpack(connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _PEERCRED.size))
        return pid, uid, gid
    return -1, -1, -1


def octets_sent(connection: sockets.socket) -> int | None:
    """How many octets libzmq has sent over a TCP connection, or handed to the kernel. None of others."""
    try:
        if connection.getsockopt(sockets.SOL_SOCKET, sockets.SO_DOMAIN) == sockets.AF_UNIX:
            return None
        told = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, _BYTES_ACKED.size)
        if len(told) < _BYTES_ACKED.size:
            return None
        # In this order: what is acknowledged in between is left out, and not counted twice.
        waiting = int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):  # it is over, or another system has no such thing
        return None
    return int(_BYTES_ACKED.unpack(told)[0]) + waiting


def shut_down(connection: sockets.socket) -> None:
    """End a connection: then libzmq closes it."""
    with contextlib.suppress(OSError):  # the peer was quicker
        connection.shutdown(sockets.SHUT_RDWR)
