"""What goes over a connection to a gRPC server: HTTP/2 (RFC 9113), used as doc/PROTOCOL-HTTP2.md of gRPC says."""

from __future__ import annotations

import struct

from benchmarks.wire import Wire, WireError

# Types and flags of a frame, and numbers of settings.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
ACK = END_STREAM = 0x1
END_HEADERS = 0x4
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 0x4, 0x5
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = 2**31 - 1
FIRST_WINDOW = 65_535  # octets, of every connection and stream until somebody says otherwise


def http2_frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame: a header of nine octets (length, type, flags, stream), and the payload."""
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def http2_header(name: str, value: str) -> bytes:
    """Return a header field as HPACK's literal without indexing (RFC 7541, 6.2.2), shorter than 127 octets each."""
    return b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()


class Grpc(Wire):
    """Calls a unary method of a gRPC server: a stream a call, which ends with the trailers of the reply."""

    def __init__(self, method: str, body: bytes) -> None:
        super().__init__()
        settings = struct.pack(">HIHI", INITIAL_WINDOW_SIZE, LARGEST_WINDOW, MAX_FRAME_SIZE, 2**24 - 1)
        widen = struct.pack(">I", LARGEST_WINDOW - FIRST_WINDOW)
        self.outgoing += PREFACE + http2_frame(SETTINGS, 0, 0, settings) + http2_frame(WINDOW_UPDATE, 0, 0, widen)
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._headers = b"".join(http2_header(*field) for field in fields.items())
        self._message = b"\0" + struct.pack(">I", len(body)) + body  # not compressed, its length, it
        self._stream = 1
        self._window = FIRST_WINDOW
        self._queued = 0
        self._unacknowledged = 0
        self._buffer = bytearray()

    def requests(self, count: int) -> bytes:
        """Return as many of these requests as the server has room for. The others are `outgoing` once it has."""
        self._queued += count
        return self._sendable()

    def receive(self, data: memoryview) -> int:
        self._buffer += data
        buffer, at, replies = self._buffer, 0, 0
        while len(buffer) - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", buffer, at)
            end = at + 9 + (high << 8 | low)
            if len(buffer) < end:
                break
            replies += self._obey(kind, flags, stream, bytes(buffer[at + 9 : end]))
            at = end
        del buffer[:at]
        return replies

    def finish(self) -> None:
        if self._buffer:
            raise WireError(f"{len(self._buffer)} bytes of a frame are left over")

    def _obey(self, kind: int, flags: int, stream: int, payload: bytes) -> bool:
        """Do what a frame asks for, and return whether it ends a reply."""
        if kind == DATA:
            if payload != self._message:
                raise WireError(f"the reply is {payload!r}")
            self._acknowledge(len(payload))
        elif kind == SETTINGS and not flags & ACK:
            self.outgoing += http2_frame(SETTINGS, ACK, 0)
            self.ready = True
        elif kind == PING and not flags & ACK:
            self.outgoing += http2_frame(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
            self.outgoing += self._sendable()
        elif kind in (RST_STREAM, GOAWAY):
            raise WireError(f"the server refuses stream {stream}: {payload!r}")
        return kind in (DATA, HEADERS) and bool(flags & END_STREAM)

    def _acknowledge(self, octets: int) -> None:
        self._unacknowledged += octets
        if self._unacknowledged > FIRST_WINDOW:
            self.outgoing += http2_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged))
            self._unacknowledged = 0

    def _sendable(self) -> bytes:
        count = min(self._queued, self._window // len(self._message))
        first, self._stream = self._stream, self._stream + 2 * count
        self._queued -= count
        self._window -= count * len(self._message)
        headers = struct.pack(">HBBB", len(self._headers) >> 8, len(self._headers) & 0xFF, HEADERS, END_HEADERS)
        message = struct.pack(">HBBB", len(self._message) >> 8, len(self._message) & 0xFF, DATA, END_STREAM)
        numbers = (number.to_bytes(4, "big") for number in range(first, self._stream, 2))
        return b"".join([headers + one + self._headers + message + one + self._message for one in numbers])
