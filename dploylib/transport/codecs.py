"""Between Python objects and the mimetype and bytes of an envelope. No I/O happens here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import InvalidData, PeerError, UndecodableData, UnexpectedMimetype
from .envelope import Envelope

__all__ = [
    "BYTES_MIMETYPE",
    "JSON_MIMETYPE",
    "MSGPACK_MIMETYPE",
    "PROBLEM_MIMETYPE",
    "TEXT_MIMETYPE",
    "ObjectDecoder",
    "decode_data",
    "decode_object",
    "decode_text",
    "encode",
    "encode_object",
    "essence",
]

TEXT_MIMETYPE = "text/plain"
BYTES_MIMETYPE = "application/octet-stream"
JSON_MIMETYPE = "application/json"
MSGPACK_MIMETYPE = "application/msgpack"
PROBLEM_MIMETYPE = "application/problem+json"

_MSGPACK = (MSGPACK_MIMETYPE, "application/x-msgpack", "application/vnd.msgpack")

Decoder = msgspec.json.Decoder[Any] | msgspec.msgpack.Decoder[Any]

_SHOWN = 1000  # what an error quotes of what a peer sent, at most


def encode(value: Any) -> tuple[str, bytes]:
    """The mimetype and body for `value`: str is text, bytes are bytes, anything else is JSON (see `encode_object`)."""
    if isinstance(value, str):
        return TEXT_MIMETYPE, value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return BYTES_MIMETYPE, bytes(value)
    return JSON_MIMETYPE, encode_object(value)


def encode_object(value: Any, mimetype: str = JSON_MIMETYPE) -> bytes:
    """`value` as JSON, or as msgpack if that is the mimetype.

    That is what msgspec can encode, and what has a method `serialize()` that returns such. Raises `TypeError` for
    anything else, and for other mimetypes.
    """
    if mimetype == JSON_MIMETYPE:
        return _json_encoder.encode(value)
    kind = essence(mimetype)
    if kind in _MSGPACK:
        return _msgpack_encoder.encode(value)
    if kind == JSON_MIMETYPE or kind.endswith("+json"):
        return _json_encoder.encode(value)
    raise TypeError(f"objects are sent as {JSON_MIMETYPE} or {MSGPACK_MIMETYPE}, not as {mimetype!r}")


def decode_text(envelope: Envelope) -> str:
    """The body of a `text/plain` envelope. Raises `UnexpectedMimetype` or `UndecodableData`."""
    if essence(envelope.mimetype) != TEXT_MIMETYPE:
        raise _unexpected(envelope, TEXT_MIMETYPE)
    return to_text(envelope.data)


def to_text(data: bytes) -> str:
    """`data` decoded as UTF-8. Raises `UndecodableData`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UndecodableData(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error


def decode_data(envelope: Envelope) -> Any:
    """The body of an envelope of JSON or msgpack, as dicts, lists, str, int and so on.

    Raises `UnexpectedMimetype` or `UndecodableData`.
    """
    return _decode(_json_decoder if _is_json(envelope) else _msgpack_decoder, envelope)


def decode_object(envelope: Envelope, declared: Any) -> Any:
    """The body of an envelope of JSON or msgpack as the object that `declared` stands for.

    `declared` is what `ObjectDecoder` takes, or one of these. Raises `UnexpectedMimetype`, `UndecodableData`, or
    `InvalidData` when the body is well-formed but not such an object.
    """
    decoder = declared if isinstance(declared, ObjectDecoder) else ObjectDecoder(declared)
    return decoder.decode(envelope)


class ObjectDecoder:
    """Makes the objects that `declared` stands for: what `decode_object` does, ready to be used for many envelopes.

    `declared` is anything with a method `deserialize(data)`, a msgspec Struct or dataclass type (or another type that
    msgspec knows), or a callable that takes the data. Raises `TypeError` for anything else.
    """

    def __init__(self, declared: Any) -> None:
        self._name = getattr(declared, "__name__", None) or repr(declared)
        self._deserialize = _deserializer(declared)
        if self._deserialize is None:
            self._json: Decoder = msgspec.json.Decoder(declared)
            self._msgpack: Decoder = msgspec.msgpack.Decoder(declared)
        else:
            self._json, self._msgpack = _json_decoder, _msgpack_decoder

    def decode(self, envelope: Envelope) -> Any:
        """The object in an envelope. Raises what `decode_object` raises."""
        data = _decode(self._json if _is_json(envelope) else self._msgpack, envelope)
        if self._deserialize is None:
            return data
        try:
            return self._deserialize(data)
        except PeerError:  # it knows by itself what to say
            raise
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise InvalidData(f"{self._name} refused the body: {type(error).__name__}: {error}") from error


def _deserializer(declared: Any) -> Callable[[Any], Any] | None:
    """The function that makes an object of decoded data, or None where msgspec does it while decoding."""
    deserialize = getattr(declared, "deserialize", None)
    if deserialize is not None:
        return deserialize  # type: ignore[no-any-return]
    known_to_msgspec = isinstance(declared, type) and (
        issubclass(declared, msgspec.Struct) or dataclasses.is_dataclass(declared)
    )
    return declared if callable(declared) and not known_to_msgspec and not hasattr(declared, "__origin__") else None


def _serialized(value: Any) -> Any:
    for name in ("serialize", "__serialize__"):
        method = getattr(value, name, None)
        if method is not None:
            return method()
    raise TypeError(
        f"an object of type {type(value).__name__} cannot be turned into JSON: "
        "give it a method serialize() that returns data, or make it a msgspec Struct or a dataclass"
    )


_json_encoder = msgspec.json.Encoder(enc_hook=_serialized)
_msgpack_encoder = msgspec.msgpack.Encoder(enc_hook=_serialized)


_json_decoder = msgspec.json.Decoder()
_msgpack_decoder = msgspec.msgpack.Decoder()


def _decode(decoder: Decoder, envelope: Envelope) -> Any:
    try:
        return decoder.decode(envelope.data)
    except msgspec.ValidationError as error:
        raise InvalidData(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableData(f"the body is not {envelope.mimetype}: {error}") from error


def _is_json(envelope: Envelope) -> bool:
    """Whether the body is JSON, and not msgpack. Raises `UnexpectedMimetype` when it is neither."""
    mimetype = envelope.mimetype
    if mimetype == JSON_MIMETYPE:
        return True
    kind = essence(mimetype)
    if kind == PROBLEM_MIMETYPE:  # JSON too, but an error is no answer
        raise _unexpected(envelope, JSON_MIMETYPE)
    if kind == JSON_MIMETYPE or kind.endswith("+json"):
        return True
    if kind in _MSGPACK:
        return False
    raise _unexpected(envelope, JSON_MIMETYPE)


def essence(mimetype: str) -> str:
    """The mimetype without its parameters (`; charset=utf-8`): what WHATWG's MIME Sniffing calls the essence."""
    return mimetype.partition(";")[0].strip().lower()


def _unexpected(envelope: Envelope, expected: str) -> UnexpectedMimetype:
    said = ""
    if essence(envelope.mimetype) == PROBLEM_MIMETYPE:
        said = f"; it says: {envelope.data[:_SHOWN].decode(errors='replace')}"
    return UnexpectedMimetype(f"expected an envelope of {expected}, got one of {envelope.mimetype[:_SHOWN]!r}{said}")
