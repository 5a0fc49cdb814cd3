"""What all messages have in common: from data and bytes, and back, and their JSON Schema. No I/O happens here."""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar, NoReturn, TypeVar

import msgspec

from ..errors import InvalidData, InvalidMessage, UndecodableData, UnexpectedMimetype
from .explaining import flaw_in

__all__ = ["JSON_MIMETYPE", "MSGPACK_MIMETYPE", "FrozenDict", "Message", "Record"]

JSON_MIMETYPE = "application/json"
MSGPACK_MIMETYPE = "application/msgpack"

_ENCODERS = {JSON_MIMETYPE: msgspec.json.encode, MSGPACK_MIMETYPE: msgspec.msgpack.encode}
_DECODERS = {JSON_MIMETYPE: msgspec.json.Decoder, MSGPACK_MIMETYPE: msgspec.msgpack.Decoder}
_ALSO_MSGPACK = ("application/x-msgpack", "application/vnd.msgpack")

_Self = TypeVar("_Self", bound="Message")
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Message:
    """A message of dploy: a value that is valid once it is made, and does not change.

    One that is made in Python of what it cannot be made of raises `InvalidMessage`, and one that a peer has sent raises
    `InvalidData`. Fields that are not known are left out of what is received, so that old and new peers mix.
    """

    __slots__ = ()

    _wire: ClassVar[Any]
    """The type that msgspec decodes."""

    def serialize(self) -> Any:
        """The message as plain data: dicts, lists, strings and numbers."""
        return msgspec.to_builtins(self)

    @classmethod
    def deserialize(cls: type[_Self], data: Any) -> _Self:
        """The message in plain data. Raises `InvalidData`, with the path to what is wrong, the value and its rule."""
        try:
            return cls._made_of(msgspec.convert(data, cls._wire))
        except msgspec.ValidationError as error:
            raise InvalidData(flaw_in(data, cls._wire) or str(error)) from error

    def to_bytes(self, mimetype: str = JSON_MIMETYPE) -> bytes:
        """The message as JSON or msgpack. Raises `ValueError` for another mimetype."""
        kind = _kind_of(mimetype)
        if kind is None:
            raise ValueError(f"{mimetype!r}: expected {JSON_MIMETYPE} or {MSGPACK_MIMETYPE}")
        return _ENCODERS[kind](self)

    @classmethod
    def from_bytes(cls: type[_Self], data: bytes, mimetype: str = JSON_MIMETYPE) -> _Self:
        """The message in JSON or msgpack. Raises `UnexpectedMimetype`, `UndecodableData` or `InvalidData`."""
        kind = _kind_of(mimetype)
        if kind is None:
            raise UnexpectedMimetype(f"expected {JSON_MIMETYPE} or {MSGPACK_MIMETYPE}, got {mimetype[:100]!r}")
        try:
            try:
                decoder = _decoder(cls, kind)  # type: ignore[arg-type]  # the class can be hashed
                return cls._made_of(decoder.decode(data))
            except msgspec.ValidationError:
                plain = _DECODERS[kind]().decode(data)
        except msgspec.ValidationError as error:  # a number that is too large for any message
            raise InvalidData(str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UndecodableData(f"the data is not {kind}: {error}") from error
        return cls.deserialize(plain)  # which says what is wrong

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the message."""
        schema = msgspec.json.schema(cls._wire)
        definitions = schema.pop("$defs", {})
        if "$ref" in schema:
            schema = definitions.pop(cls.__name__)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:dploylib:message:{cls.__name__}",
            "title": cls.__name__,
            "description": (inspect.getdoc(cls) or "").partition("\n\n")[0].replace("\n", " "),
            **schema,
            **({"$defs": definitions} if definitions else {}),
        }

    @classmethod
    def _made_of(cls: type[_Self], decoded: Any) -> _Self:
        """The message, of what msgspec has made of the data."""
        return decoded  # type: ignore[no-any-return]


class Record(Message, msgspec.Struct, frozen=True):
    """A message with fields."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._wire = cls

    def __post_init__(self) -> None:
        """Check the fields. What msgspec decodes is checked already; who calls the class must be told, too."""
        try:
            checked = msgspec.convert(msgspec.structs.asdict(self), _fields_alone(type(self)))
        except msgspec.ValidationError as error:
            self._refuse(error)
        self._keep(checked)

    def _keep(self, checked: Any) -> None:
        """Replace what is no plain value by what was made of it when it was checked: the caller's own may change."""

    def _refuse(self, error: msgspec.ValidationError) -> NoReturn:
        name = type(self).__name__
        raise InvalidMessage(flaw_in(msgspec.structs.asdict(self), type(self), name) or f"{name}: {error}") from error


class FrozenDict(dict[_Key, _Value]):
    """A dictionary that does not change. `dict(it)` is a copy that does."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise `TypeError`: it does not change."""
        raise TypeError(f"{type(self).__name__} does not change: make another one, of a copy by dict()")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:  # else pickle and copy would set one item after the other
        return type(self), (dict(self),)


def _kind_of(mimetype: str) -> str | None:
    """Which of the two a mimetype is: parameters (`; charset=utf-8`) do not matter."""
    essence = mimetype.partition(";")[0].strip().lower()
    if essence in _ALSO_MSGPACK:
        return MSGPACK_MIMETYPE
    return essence if essence in _ENCODERS else None


@functools.cache
def _decoder(message: Any, kind: str) -> Any:
    """What decodes the data of a kind of message."""
    return _DECODERS[kind](message._wire)


@functools.cache
def _fields_alone(record: type[Record]) -> type[msgspec.Struct]:
    """A Struct with the same fields and rules: msgspec checks what it converts, and it converts to a Struct fastest."""
    return msgspec.defstruct(record.__name__, [(field.name, field.type) for field in msgspec.structs.fields(record)])
