"""The sockets that listen at the endpoints of a service. The arbiter has them: they outlive each worker."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..errors import AddressInUse, EndpointError
from ..ipc_lock import IpcLock, is_no_socket, lockable_path

__all__ = ["Listener", "Listening", "address_of", "open_listeners"]

_SIOCGIFADDR = 0x8915  # Linux: the IPv4 address of an interface


class Listening(msgspec.Struct, frozen=True):
    """An endpoint at which a service listens: whose it is, `echo.request` say, and how it is opened."""

    owner: str
    uri: str
    permissions: int = 0o600
    """Of the file of an ipc endpoint."""
    ipv6: bool = False

    @property
    def key(self) -> str:
        """What tells it from others: of wildcards, several may have the same."""
        return f"{self.owner} {self.uri}"


class Listener:
    """A socket that listens at an endpoint. It has what gunicorn wants of its listeners."""

    def __init__(self, listening: Listening, sock: socket.socket) -> None:
        self.listening = listening
        self._socket = sock
        self._lock: IpcLock | None = None

    def __str__(self) -> str:
        return f"{self.listening.owner} at {self.endpoint}"

    @property
    def uri(self) -> str:
        """The endpoint as it was configured."""
        return self.listening.uri

    @property
    def endpoint(self) -> str:
        """The endpoint, wildcards resolved."""
        name = self.getsockname()
        if self._socket.family == socket.AF_UNIX:
            return f"ipc://{_abstract(name, chr(0), '@')}"
        host = f"[{name[0]}]" if self._socket.family == socket.AF_INET6 else name[0]
        return f"tcp://{host}:{name[1]}"

    def fileno(self) -> int:
        """Its descriptor."""
        return self._socket.fileno()

    def getsockname(self) -> Any:
        """Its address, as `socket.getsockname` has it."""
        name = self._socket.getsockname()
        return os.fsdecode(name) if isinstance(name, bytes) else name

    def own(self) -> None:
        """Take care of the file, if it has one: nobody else may bind to it, and `close` can remove it."""
        path = lockable_path(self.uri)
        if path is not None and self._lock is None:
            with contextlib.suppress(OSError):  # who listened before us still ends
                self._lock = IpcLock(path)
                self._lock.bound()

    def close(self, unlink: bool = True) -> None:
        """Listen no more. The file goes too, unless somebody else listens on."""
        if self._lock is not None:
            self._lock.release(remove=unlink)
        self._socket.close()


def open_listeners(
    wanted: Iterable[Listening],
    given: Mapping[str, int],
    backlog: int = 2048,
    owner: tuple[int, int] | None = None,
) -> dict[str, Listener]:
    """Open the listeners, by key; those of which there are descriptors already, by key too, take these.

    `owner` are the user and group that files are for. Raises `AddressInUse` or `EndpointError`; then none of them is
    open but those that were.
    """
    listeners: dict[str, Listener] = {}
    try:
        for listening in wanted:
            key = listening.key
            if key in given:
                listeners[key] = Listener(listening, socket.socket(fileno=given[key]))
                listeners[key].own()
            else:
                listeners[key] = _open(listening, backlog, owner)
    except BaseException:
        for key, listener in listeners.items():
            if key not in given:
                listener.close()
        raise
    return listeners


def _open(listening: Listening, backlog: int, owner: tuple[int, int] | None) -> Listener:
    uri = listening.uri
    try:
        listener = _bound_to_path(listening, owner) if uri.startswith("ipc://") else _bound_to_port(listening)
        try:
            listener._socket.listen(backlog)
        except BaseException:
            listener.close()
            raise
    except BlockingIOError as error:
        raise _in_use(listening) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _in_use(listening) from error
        raise EndpointError(f"{listening.owner}: cannot bind to {uri}: {error.strerror or error}") from error
    return listener


def _in_use(listening: Listening) -> AddressInUse:
    return AddressInUse(f"{listening.owner}: cannot bind to {listening.uri}: somebody else listens there")


def _bound_to_port(listening: Listening) -> Listener:
    family, address = address_of(listening)
    sock = _socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # as libzmq does
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return Listener(listening, sock)


def address_of(listening: Listening) -> tuple[socket.AddressFamily, Any]:
    """Where it would listen, as `socket.getsockname` says it.

    That is what libzmq would bind to (zmq_tcp(7)): an address, `*`, the name of a host, or that of an interface. Raises
    `OSError` for what is none of these.
    """
    if listening.uri.startswith("ipc://"):
        return socket.AF_UNIX, _abstract(listening.uri.removeprefix("ipc://"), "@", chr(0))
    host, _, port = listening.uri.removeprefix("tcp://").rpartition(":")
    number = 0 if port in ("*", "") else int(port)
    host = host.strip("[]")
    if host == "*":
        return (socket.AF_INET6, ("::", number)) if listening.ipv6 else (socket.AF_INET, ("0.0.0.0", number))
    if host in (name for _, name in socket.if_nameindex()):
        with _socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", host.encode()[:15]))
        return socket.AF_INET, (socket.inet_ntoa(found[20:24]), number)
    family = socket.AF_UNSPEC if listening.ipv6 or ":" in host else socket.AF_INET
    found_family, *_, address = socket.getaddrinfo(host, number, family, socket.SOCK_STREAM)[0]
    return found_family, address


def _bound_to_path(listening: Listening, owner: tuple[int, int] | None) -> Listener:
    path = listening.uri.removeprefix("ipc://")
    lock = None if path.startswith("@") else IpcLock(path)
    sock = _socket(socket.AF_UNIX)
    try:
        if lock is not None:
            if is_no_socket(path):
                raise OSError(errno.EEXIST, f"{path} exists, and is no socket")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of somebody who was killed: he would have the lock
        umask = os.umask(0o777 & ~listening.permissions)
        try:
            sock.bind(_abstract(path, "@", chr(0)))
        finally:
            os.umask(umask)
        if lock is not None:
            os.chmod(path, listening.permissions)
            lock.bound()
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.chown(path, *owner)
    except BaseException:
        sock.close()
        if lock is not None:
            lock.release()
        raise
    listener = Listener(listening, sock)
    listener._lock = lock
    return listener


def _socket(family: socket.AddressFamily, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket that does not block: several processes accept its connections, and only one of them gets each."""
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


def _abstract(path: object, first: str, instead: str) -> str:
    """A path with the first character that an abstract one has there."""
    text = str(path)
    return instead + text[1:] if text.startswith(first) else text
