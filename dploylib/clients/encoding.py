"""What clients take for a message."""

from __future__ import annotations

from typing import Any

from ..transport import Envelope, ReceivedData
from ..transport.codecs import encode

__all__ = ["envelope_of"]


def envelope_of(message: Any, id: str = "") -> Envelope:
    """The envelope for a message, with this id.

    A str is sent as text, bytes as they are, an `Envelope` or what was received as it is, unless an id is given;
    anything else as JSON (see `Socket.send_obj`). Raises `TypeError` for what cannot be encoded.
    """
    if isinstance(message, ReceivedData):
        message = message.envelope
    if isinstance(message, Envelope):
        if not id or id == message.id:
            return message
        return Envelope(id, message.mimetype, message.data, message.request_frames)
    mimetype, data = encode(message)
    return Envelope(id, mimetype, data)
