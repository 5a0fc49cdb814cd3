"""What a handler gets: an envelope, and its body decoded when somebody asks for it. No I/O happens here."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import PeerError
from ..security import Peer
from .codecs import decode_data, decode_object, to_text
from .envelope import Envelope
from .metadata import Metadata

if TYPE_CHECKING:
    from .guard import Guard

__all__ = ["ReceivedData"]

_UNSET: Any = object()

T = TypeVar("T")


class ReceivedData:
    """A received envelope.

    `deserializer` is what `obj` is made with: anything that `decode_object` takes. `metadata` is what the caller said
    about its call, if it did; `deadline` is when the caller gives up, on the clock of `time.monotonic`, or None.
    `fault` is the `PeerError` that was raised about it, if there was one: the mistake of who sent it, and of nobody
    else.
    """

    __slots__ = ("_data", "_deserializer", "_obj", "deadline", "envelope", "fault", "metadata", "sender")

    sender: tuple[Guard, Any]  # there only where it is known: who knows it, and what it knows it by

    def __init__(self, envelope: Envelope, deserializer: Any = None, metadata: Metadata | None = None) -> None:
        self.envelope = envelope
        self.metadata = metadata
        self.deadline: float | None = None
        if metadata is not None and metadata.milliseconds_left is not None:
            self.deadline = time.monotonic() + metadata.milliseconds_left / 1000
        self.fault: PeerError | None = None
        self._deserializer = deserializer
        self._data = _UNSET
        self._obj = _UNSET

    @property
    def id(self) -> str:
        """The envelope's id."""
        return self.envelope.id

    @property
    def request_id(self) -> str | int | None:
        """What its caller calls the request. None if it did not say."""
        return None if self.metadata is None else self.metadata.request_id

    @property
    def mimetype(self) -> str:
        """The envelope's mimetype."""
        return self.envelope.mimetype

    @property
    def data(self) -> bytes:
        """The envelope's body."""
        return self.envelope.data

    @property
    def peer(self) -> Peer | None:
        """Who sent it: its name and groups as they are now. None on a socket that lets everybody in."""
        try:
            guard, sender = self.sender
        except AttributeError:
            return None
        return guard.peer(sender)

    @property
    def text(self) -> str:
        """The body as text, whatever the mimetype. Raises `UndecodableData` when it is not UTF-8."""
        try:
            return to_text(self.envelope.data)
        except PeerError as error:
            self.fault = error
            raise

    @property
    def json(self) -> Any:
        """The body of JSON (or msgpack) as data, decoded once. Raises `UnexpectedMimetype` or `UndecodableData`."""
        if self._data is _UNSET:
            self._data = self._decode(decode_data, self.envelope)
        return self._data

    @property
    def obj(self) -> Any:
        """The object that the socket declares with `obj=`, made once.

        Raises `UnexpectedMimetype`, `UndecodableData` or `InvalidData`, and `TypeError` when none was declared.
        """
        if self._obj is _UNSET:
            if self._deserializer is None:
                raise TypeError("this socket declares no obj=, so there is no .obj; use .json, .text or .data")
            self._obj = self._decode(decode_object, self.envelope, self._deserializer)
        return self._obj

    def _decode(self, decode: Callable[..., T], *arguments: Any) -> T:
        try:
            return decode(*arguments)
        except PeerError as error:
            self.fault = error
            raise

    def __repr__(self) -> str:
        return f"ReceivedData({self.envelope!r})"
