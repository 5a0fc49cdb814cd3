"""What goes over a connection, as bytes: what to send, and how many replies came. No I/O.

The load generator speaks the protocols by itself, so that a message costs it little more than its share of a system
call: requests are ready-made bytes, and replies of a known length are counted by their bytes. Here is ZMTP 3.0, which
is what ZeroMQ speaks (rfc.zeromq.org/spec/23).
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

# ZMTP 3.0: flags of a frame, and the greeting, which is all that both sides say before the first frame.
MORE, LONG, COMMAND = 0x01, 0x02, 0x04
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = (SIGNATURE + b"\x03\x00" + b"NULL".ljust(20, b"\0")).ljust(64, b"\0")


class WireError(Exception):
    """The server sent something else than this benchmark expects."""


class Wire(ABC):
    """One connection's side of a conversation.

    `ready` is true once requests may be sent, and `outgoing` is what the protocol itself wants to have sent.
    """

    def __init__(self) -> None:
        self.ready = False
        self.outgoing = bytearray()

    @abstractmethod
    def requests(self, count: int) -> bytes | memoryview:
        """Return the bytes of so many requests."""

    @abstractmethod
    def receive(self, data: memoryview) -> int:
        """Take what came, and return how many replies it completes."""

    @abstractmethod
    def finish(self) -> None:
        """Raise `WireError` if part of a reply has come and the rest of it has not."""


def zmtp_frame(body: bytes, flags: int = 0) -> bytes:
    """Return a ZMTP frame: flags, size (one octet, or eight in a long frame), body."""
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return struct.pack(">BQ", flags | LONG, len(body)) + body


def zmtp_message(frames: Sequence[bytes]) -> bytes:
    """Return a ZMTP message of these frames."""
    *others, last = frames
    return b"".join([*(zmtp_frame(one, MORE) for one in others), zmtp_frame(last)])


def zmtp_ready(socket_type: str) -> bytes:
    """Return the READY command, which ends the handshake of the NULL mechanism."""
    name, value = b"Socket-Type", socket_type.upper().encode()
    ready = b"\x05READY" + bytes((len(name),)) + name + struct.pack(">I", len(value)) + value
    return zmtp_frame(ready, COMMAND)


class Zmtp(Wire):
    """The peer of a ZeroMQ socket: handshake, messages in, and an answer to every PING."""

    def __init__(self, socket_type: str, first: bytes = b"") -> None:
        super().__init__()
        self.outgoing += GREETING + zmtp_ready(socket_type)
        self._first = first  # what to send after the handshake; libzmq closes the connection if it comes earlier
        self._buffer = bytearray()
        self._greeted = False
        self._frames: list[bytes] = []

    def messages(self, data: memoryview) -> Iterator[list[bytes]]:
        """Yield the messages that this data completes."""
        self._buffer += data
        if not self._greeted:
            self._greet()
        while self._greeted and (frame := self._next_frame()) is not None:
            flags, body = frame
            if flags & COMMAND:
                self._obey(body)
                continue
            self._frames.append(body)
            if not flags & MORE:
                yield self._frames
                self._frames = []

    def receive(self, data: memoryview) -> int:
        return sum(self.is_reply(message) for message in self.messages(data))

    def is_reply(self, message: list[bytes]) -> bool:
        """Whether this message is what we count."""
        return True

    def requests(self, count: int) -> bytes | memoryview:
        return b""

    def finish(self) -> None:
        if self._buffer or self._frames:
            raise WireError(f"{len(self._buffer)} bytes of a reply are left over")

    def _greet(self) -> None:
        if len(self._buffer) < len(GREETING):
            return
        if self._buffer[:1] != SIGNATURE[:1] or self._buffer[10] < 3 or self._buffer[12:17] != b"NULL\0":
            raise WireError(f"this is no ZMTP 3 greeting with the NULL mechanism: {bytes(self._buffer[:64])!r}")
        del self._buffer[: len(GREETING)]
        self._greeted = True

    def _next_frame(self) -> tuple[int, bytes] | None:
        if len(self._buffer) < 2:
            return None
        flags, size, start = self._buffer[0], self._buffer[1], 2
        if flags & LONG:
            if len(self._buffer) < 9:
                return None
            size, start = int.from_bytes(self._buffer[1:9], "big"), 9
        if len(self._buffer) < start + size:
            return None
        body = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return flags, body

    def _obey(self, command: bytes) -> None:
        name, body = command[1 : 1 + command[0]], command[1 + command[0] :]
        if name == b"READY":
            self.ready = True
            self.outgoing += self._first
        elif name == b"PING":  # two octets of time to live, and a context that the PONG has to have too
            self.outgoing += zmtp_frame(b"\x04PONG" + body[2:], COMMAND)
        elif name != b"PONG":
            raise WireError(f"the server sent the command {command!r}")


class Counted(Zmtp):
    """Equal requests and equal replies: the first reply is compared, the others are counted by their bytes."""

    def __init__(self, socket_type: str, request: Sequence[bytes], reply: Sequence[bytes], outstanding: int) -> None:
        super().__init__(socket_type)
        one = zmtp_message(request)
        self._request_length = len(one)
        self._requests = memoryview(one * outstanding)
        self._reply = zmtp_message(reply)
        self._reply_length = len(self._reply)
        self._verified = False
        self._left = 0

    def requests(self, count: int) -> memoryview:
        return self._requests[: count * self._request_length]

    def receive(self, data: memoryview) -> int:
        if self._verified:
            count, self._left = divmod(self._left + len(data), self._reply_length)
            return count
        return self._verify(data)

    def finish(self) -> None:
        if self._left:
            raise WireError(f"{self._left} bytes of a reply are left over")

    def _verify(self, data: memoryview) -> int:
        if not self.ready:
            if any(self.messages(data)):
                raise WireError("the server sent a message before it was asked for anything")
            return 0
        self._buffer += data
        if len(self._buffer) < self._reply_length:
            return 0
        if not self._buffer.startswith(self._reply):
            raise WireError(f"the first reply is {bytes(self._buffer[:200])!r}, and not {self._reply[:200]!r}")
        self._verified = True
        count, self._left = divmod(len(self._buffer), self._reply_length)
        self._buffer.clear()
        return count


class Putter(Zmtp):
    """Puts equal jobs into a queue, and counts how many were accepted."""

    def __init__(self, job: Sequence[bytes], most: int) -> None:
        super().__init__("dealer")
        one = zmtp_message([b"", *job])
        self._length = len(one)
        self._jobs = memoryview(one * most)

    def requests(self, count: int) -> memoryview:
        return self._jobs[: count * self._length]

    def is_reply(self, message: list[bytes]) -> bool:
        if b"problem" in message[-2]:
            raise WireError(f"a job was refused: {message[-1]!r}")
        return True


class JobTaker(Zmtp):
    """Takes jobs from a queue, up to `credit` at once, and says of each that it is done. Counts those."""

    def __init__(self, credit: int) -> None:
        ready = [b"", b"", b"application/vnd.dploylib.ready+json", b'{"credit": %d}' % credit]
        super().__init__("dealer", zmtp_message(ready))

    def is_reply(self, message: list[bytes]) -> bool:
        if len(message) != 5:  # asked for a sign of life
            raise WireError(f"this is no job: {message!r}")
        self.outgoing += zmtp_message([*message[:3], b"text/plain", b""])
        return True


class Pusher(Zmtp):
    """Sends equal messages to a PULL, which says nothing but its part of the handshake."""

    def __init__(self, message: Sequence[bytes], most: int) -> None:
        super().__init__("push")
        one = zmtp_message(message)
        self._length = len(one)
        self._messages = memoryview(one * most)

    def requests(self, count: int) -> memoryview:
        return self._messages[: count * self._length]


class Subscriber(Zmtp):
    """Counts what a PUB sends: one by one until `fence` comes, and from then on by the bytes of `message`."""

    def __init__(self, message: Sequence[bytes], fence: bytes) -> None:
        super().__init__("sub", zmtp_frame(b"\x01"))  # to subscribe: 1, and how what we want begins, here anything
        self._fence = fence
        self._message = zmtp_message(message)
        self._left = 0
        self.fenced = False
        self.probed = False

    def receive(self, data: memoryview) -> int:
        if self.fenced:
            count, self._left = divmod(self._left + len(data), len(self._message))
            return count
        for message in self.messages(data):
            self.probed = True
            if message[-1] == self._fence:
                self.fenced = True
        if self.fenced and self._buffer:
            raise WireError("the server published something after the fence")
        return 0

    def finish(self) -> None:
        if self._left:
            raise WireError(f"{self._left} bytes of a message are left over")
