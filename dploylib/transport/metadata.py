"""What a caller says about its call, in one request frame of its own in front of the delimiter. No I/O happens here.

The frame is the four bytes `DPL1` followed by msgpack of a small map: `r` the request id, `d` the milliseconds that
the caller will wait, `t` a W3C traceparent, `a` the number of the attempt, `s` when it was sent. Every REP and ROUTER
peer echoes request frames untouched, so a call with metadata works against any server, and one that reads it knows the
deadline.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

__all__ = ["Metadata"]

_MAGIC = b"DPL1"


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a caller says about its call.

    `request_id` names the call; `milliseconds_left` is what the caller will still wait; `traceparent` is W3C's;
    `attempt` counts, from 1 on, how often this was sent to somebody, and `sent_at` is when it was sent this time, in
    seconds since 1970.
    """

    request_id: str | int | None = msgspec.field(default=None, name="r")
    milliseconds_left: float | None = msgspec.field(default=None, name="d")
    traceparent: str | None = msgspec.field(default=None, name="t")
    attempt: int | None = msgspec.field(default=None, name="a")
    sent_at: float | None = msgspec.field(default=None, name="s")

    def to_frame(self) -> bytes:
        """The request frame that says this."""
        return _MAGIC + _encoder.encode(self)

    @classmethod
    def find(cls, request_frames: Iterable[bytes]) -> Metadata | None:
        """The metadata among `request_frames`, or None. A frame that does not parse is somebody else's: left alone."""
        for frame in request_frames:
            if frame.startswith(_MAGIC):
                try:
                    return _decoder.decode(frame[len(_MAGIC) :])
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue
        return None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Metadata)
