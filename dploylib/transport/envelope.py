"""The envelope: how a message is laid out in the frames of a ZeroMQ multipart message. No I/O happens here.

    any request frames
    an empty delimiter frame, if there were any
    id          str, '' unless PUB/SUB matches on it: it comes first so that a subscription sees it
    mimetype    str
    body        bytes

These bytes are the interface: a peer that knows nothing of dploylib interoperates by sending them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from ..errors import MalformedEnvelope

__all__ = ["MAX_FRAMES", "Envelope"]

MAX_FRAMES = 256
"""How many frames a message may have. An envelope has three, and one more for every hop that its route took."""

_SHOWN = 60  # characters of the body that a repr shows


class Envelope:
    """One message. Immutable; equal to another with the same id, mimetype, data and request frames.

    `id` and `mimetype` are str. `data` is the body in bytes; a str given for it is encoded as UTF-8.
    `request_frames` are the frames in front of the delimiter (bytes), which a reply takes back with it.

    Raises `TypeError` when a part is of another type.
    """

    __slots__ = ("_frames",)

    # As on the wire, which is all that an envelope is: what is sent on is not put together again. The body may be a
    # `zmq.Frame`, which holds libzmq's own memory, until somebody asks for it.
    _frames: list[Any]

    def __init__(
        self, id: str, mimetype: str, data: bytes | str, request_frames: Iterable[bytes] | None = None
    ) -> None:
        route: list[bytes] = []
        if request_frames is not None:
            route = [_as_bytes(frame, "a request frame") for frame in request_frames]
            if route:
                route.append(b"")
        _put_frames(self, [*route, _encoded(id), _encoded(mimetype), _body(data)])

    @classmethod
    def new(
        cls, mimetype: str, data: bytes | str, id: str = "", request_frames: Iterable[bytes] | None = None
    ) -> Envelope:
        """A new envelope: the constructor with the arguments in the order in which they matter."""
        return cls(id, mimetype, data, request_frames)

    @classmethod
    def from_raw(cls, raw: Sequence[bytes]) -> Envelope:
        """The envelope in the frames of a multipart message, which must be bytes.

        Raises `MalformedEnvelope` when they are not one.
        """
        return adopt(list(raw), cls)

    @property
    def id(self) -> str:
        """The id, '' for none."""
        return self._frames[-3].decode()  # type: ignore[no-any-return]

    @property
    def mimetype(self) -> str:
        """The mimetype of the body."""
        return self._frames[-2].decode()  # type: ignore[no-any-return]

    @property
    def data(self) -> bytes:
        """The body."""
        frames = self._frames
        if type(frames[-1]) is not bytes:
            frames[-1] = frames[-1].bytes
        return frames[-1]  # type: ignore[no-any-return]

    @property
    def request_frames(self) -> list[bytes]:
        """The frames in front of the delimiter, as a list of its own."""
        return self._frames[:-4]

    @property
    def text(self) -> str:
        """The body decoded as UTF-8. Raises `UnicodeDecodeError` when it is not."""
        return self.data.decode()

    def transfer_object(self) -> list[bytes]:
        """The frames to send: the reverse of `from_raw`."""
        return [*self._frames[:-1], self.data]

    def response_envelope(self, mimetype: str | None, data: bytes | str, id: str | None = None) -> Envelope:
        """An answer to this envelope: it takes over the request frames.

        It keeps the id too unless one is given, and the mimetype if that is None.
        """
        frames = self._frames[:-1]
        if id is not None:
            frames[-2] = _encoded(id)
        if mimetype is not None:
            frames[-1] = _encoded(mimetype)
        frames.append(_body(data))
        answer = Envelope.__new__(Envelope)
        _put_frames(answer, frames)
        return answer

    def __eq__(self, other: object) -> bool:
        return self.transfer_object() == other.transfer_object() if isinstance(other, Envelope) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.transfer_object()))

    def __repr__(self) -> str:
        route = f", request_frames={self.request_frames!r}" if len(self._frames) > 3 else ""
        return f"Envelope(id={self.id!r}, mimetype={self.mimetype!r}, data={_cut(self.data)}{route})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.mimetype, self.data, self.request_frames)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Envelope cannot be changed; make a new one instead of setting {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Envelope cannot be changed; make a new one instead of deleting {name}")


# The slot's own setter goes past __setattr__.
_put_frames = Envelope._frames.__set__  # type: ignore[attr-defined,misc]


def adopt(frames: list[Any], cls: type[Envelope] = Envelope) -> Envelope:
    """The envelope in these frames, which nobody else has: `Envelope.from_raw` without its copy.

    The last frame may also be a `zmq.Frame`. Raises `MalformedEnvelope`.
    """
    count = len(frames)
    if count != 3:
        if count < 5 or count > MAX_FRAMES:
            raise MalformedEnvelope(_wrong_count(count), frames)
        if frames[-4]:
            shown = _cut(frames[-4])
            raise MalformedEnvelope(f"expected an empty delimiter as frame {count - 3}, got {shown}", frames)
    if not (frames[-3].isascii() and frames[-2].isascii()):  # a quarter of what decoding costs
        _check_utf_8(frames)
    envelope = cls.__new__(cls)
    _put_frames(envelope, frames)
    return envelope


def _check_utf_8(frames: list[Any]) -> None:
    for name, frame in (("id", frames[-3]), ("mimetype", frames[-2])):
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            raise MalformedEnvelope(f"the {name} is not UTF-8: {_cut(frame)}", frames) from error


def _encoded(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"id and mimetype of an envelope are str, not {text!r}")
    return text.encode()


def _body(data: bytes | str) -> bytes:
    if type(data) is bytes:
        return data
    return data.encode() if isinstance(data, str) else _as_bytes(data, "data")


def _as_bytes(value: object, what: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{what} of an envelope must be bytes, not {type(value).__name__}: {value!r}")


def _wrong_count(count: int) -> str:
    if count > MAX_FRAMES:
        return f"{count} frames, more than the {MAX_FRAMES} that are taken"
    return f"{count} frame{'' if count == 1 else 's'}, expected 3, or request frames, an empty delimiter and 3"


def _cut(data: bytes) -> str:
    shown = repr(data[:_SHOWN])
    return shown if len(data) <= _SHOWN else f"{shown}... ({len(data)} bytes)"
