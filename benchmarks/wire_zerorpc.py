"""What goes over a connection to a zerorpc server: msgpack in ZMTP."""

from __future__ import annotations

import struct
from uuid import uuid4

from benchmarks.wire import MORE, WireError, Zmtp, zmtp_frame


class ZeroRpc(Zmtp):
    """Calls `echo(body)` of a zerorpc server. An event is a msgpack array of header, name and arguments.

    Every call has a message id of its own, since the server keeps a channel for each. Replies are told from other
    events, such as heartbeats, by their name.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__("dealer")
        # An array of 3, a map of 2, a string, and 32 bytes, of which the first half tells the connections apart.
        before = b"\x93\x82\xaamessage_id\xc4\x20" + uuid4().hex[:16].encode()
        after = b"\xa1v\x03\xa4echo\x91" + msgpack_bytes(body)  # version 3, name, an array of 1
        event = before + bytes(16) + after
        start = zmtp_frame(b"", MORE) + zmtp_frame(event)[: -len(event)] + before
        self._template = start.replace(b"%", b"%%") + b"%016x" + after.replace(b"%", b"%%")
        self._arguments = b"\xa2OK\x91" + msgpack_bytes(body)
        self._number = 0

    def requests(self, count: int) -> bytes:
        first, self._number = self._number, self._number + count
        return b"".join([self._template % number for number in range(first, self._number)])

    def is_reply(self, message: list[bytes]) -> bool:
        event = message[-1]
        if event.endswith(self._arguments):
            return True
        if b"_zpc_" in event:
            return False
        raise WireError(f"the reply is {event!r}")


def msgpack_bytes(data: bytes) -> bytes:
    """Return the msgpack of bytes, fewer than 65,536."""
    return b"\xc4" + bytes((len(data),)) + data if len(data) < 256 else b"\xc5" + struct.pack(">H", len(data)) + data
