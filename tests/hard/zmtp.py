"""The little of ZMTP 3.0 (rfc.zeromq.org/spec/23) that it takes to be a peer that misbehaves: bytes over plain TCP."""

import contextlib
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import gevent
from gevent import socket

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too

MORE, LONG, COMMAND = 0x01, 0x02, 0x04
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = (SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0")).ljust(64, b"\0")


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame: flags, size (one octet, or eight in a long frame), body."""
    if len(body) < 256 and not flags & LONG:
        return bytes((flags, len(body))) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def message(frames: Sequence[bytes]) -> bytes:
    """A multipart message of these frames."""
    *others, last = frames
    return b"".join([*(frame(one, MORE) for one in others), frame(last)])


def command(name: bytes, body: bytes = b"") -> bytes:
    return frame(bytes((len(name),)) + name + body, COMMAND)


def ready(socket_type: str, metadata: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The READY command, which ends the handshake of the NULL mechanism, with more than it must have in it."""
    pairs = {"Socket-Type": socket_type.upper(), **metadata}
    return command(b"READY", b"".join(_property(*pair) for pair in pairs.items()))


def _property(name: str, value: str) -> bytes:
    return bytes((len(name),)) + name.encode() + struct.pack(">I", len(value)) + value.encode()


class Connection:
    """A TCP connection to an endpoint. What goes over it is up to who has it."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._received = b""

    def shake_hands(self, socket_type: str, metadata: Mapping[str, str] = MappingProxyType({})) -> "Connection":
        """Become a peer of this type, as the other side sees it."""
        self.socket.sendall(GREETING + ready(socket_type, metadata))
        self._read(len(GREETING))
        flags, body = self._frame()
        assert flags & COMMAND, (flags, body)
        assert body.startswith(b"\x05READY"), body
        return self

    def send(self, data: bytes) -> bool:
        """Send what the other side takes; whether it took all of it, and did not close the connection before."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def ask(self, frames: Sequence[bytes]) -> list[bytes]:
        """Send a message, and return the one that comes back."""
        self.socket.sendall(message(frames))
        return self.receive()

    def receive(self) -> list[bytes]:
        """The next message. Commands in between are ignored."""
        frames, more = [], True
        while more:
            flags, body = self._frame()
            if flags & COMMAND:
                continue
            frames.append(body)
            more = bool(flags & MORE)
        return frames

    def wait_until_closed(self) -> bytes:
        """Read until the other side closes the connection, and return what it says before that."""
        said = b""
        with (
            gevent.Timeout(PATIENCE, AssertionError("the connection stays open")),
            contextlib.suppress(ConnectionError),
        ):
            while data := self.socket.recv(65536):
                said += data
        return said

    def close(self) -> None:
        self.socket.close()

    def _frame(self) -> tuple[int, bytes]:
        flags, size = self._read(2)
        if flags & LONG:
            size = int.from_bytes(bytes((size,)) + self._read(7), "big")
        return flags, self._read(size)

    def _read(self, count: int) -> bytes:
        while len(self._received) < count:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionResetError("the other side closed the connection")
            self._received += data
        taken, self._received = self._received[:count], self._received[count:]
        return taken
