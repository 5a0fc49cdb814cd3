"""What is wrong with data that is no message, in words, with the path to it.

msgspec decides what a message is, and says what it expected; which value it found, and under which key of a dictionary,
it does not. So what it has refused is walked once more, along the same types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta

__all__ = ["field_types", "flaw_in"]

_LIMIT = 60  # characters of a value that are shown


def flaw_in(data: object, kind: Any, path: str = "$") -> str | None:
    """The first thing that is wrong with `data` where `kind` is expected, or None: `$.app: found 5, expected a name`.

    `kind` is a Struct, a dict, a tuple, a string, an integer or a Literal, or one of these or None.
    """
    bare, metas = _taken_apart(kind)
    base = get_origin(bare) or bare
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        if isinstance(data, base):
            return None
        return _flaw_in_fields(data, base, path) if isinstance(data, Mapping) else _flaw(data, kind, path)
    if base is dict and isinstance(data, Mapping):
        key, value = get_args(bare)
        return _flaw_in_dict(data, key, value, path)
    if base is tuple and isinstance(data, list | tuple):
        item = get_args(bare)[0]  # of tuple[item, ...]
        return _first(flaw_in(value, item, f"{path}[{index}]") for index, value in enumerate(data))
    try:
        msgspec.convert(data, kind)
    except msgspec.ValidationError:
        return _flaw(data, kind, path, any((meta.extra or {}).get("secret") for meta in metas))
    return None


def field_types(kind: type[msgspec.Struct], data: Mapping[Any, Any]) -> dict[str, Any]:
    """The types of the fields of a Struct, in `data`: its `_dependent_types` says what one field tells about others."""
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    return types | getattr(kind, "_dependent_types", lambda _: {})(data)


def _flaw_in_fields(data: Mapping[Any, Any], kind: type[msgspec.Struct], path: str) -> str | None:
    types = field_types(kind, data)
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name in data:
            flaw = flaw_in(data[name], types[name], f"{path}.{name}")
        else:
            flaw = (
                f"{path}: the field {name!r} is missing, expected {_expected(types[name])}" if field.required else None
            )
        if flaw:
            return flaw
    return None


def _flaw_in_dict(data: Mapping[Any, Any], key_kind: Any, value_kind: Any, path: str) -> str | None:
    for key, value in data.items():
        try:
            msgspec.convert(key, key_kind)
        except msgspec.ValidationError:
            return f"{path}: found the key {_shown(key)}, expected {_expected(key_kind)}"
        flaw = flaw_in(value, value_kind, path + _segment(key))
        if flaw:
            return flaw
    return None


def _flaw(data: object, kind: Any, path: str, secret: bool = False) -> str:
    return f"{path}: found {_type_of(data) if secret else _shown(data)}, expected {_expected(kind)}"


def _first(flaws: Iterable[str | None]) -> str | None:
    return next(filter(None, flaws), None)


def _taken_apart(kind: Any) -> tuple[Any, tuple[Meta, ...]]:
    """A type without its Meta, and its Meta."""
    if get_origin(kind) is Annotated:
        bare, *metas = get_args(kind)
        return bare, tuple(metas)
    return kind, ()


def _expected(kind: Any) -> str:
    """What a type stands for, in words: those that its Meta has for it, if it has any."""
    bare, metas = _taken_apart(kind)
    said = next((meta.extra["expected"] for meta in metas if meta.extra and "expected" in meta.extra), None)
    if said is not None:
        return str(said)
    base = get_origin(bare) or bare
    if base is Literal:
        return _either(list(get_args(bare)))
    if base in (Union, UnionType):
        return _either([_expected(one) for one in get_args(bare)])
    if isinstance(base, type) and issubclass(base, msgspec.Struct):
        return f"an object, {base.__name__}"
    return _WORDS[base]


def _either(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


_WORDS: dict[Any, str] = {str: "a string", dict: "an object", tuple: "an array", NoneType: "null"}


def _shown(value: object) -> str:
    """A value as JSON names it: a string or a number itself, cut when it is long, and of others what they are."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return _type_of(value)
    try:
        text = repr(value)
    except ValueError:  # more digits than Python likes to print: see sys.set_int_max_str_digits
        return _type_of(value)
    return text if len(text) <= _LIMIT else f"{text[: _LIMIT - 3]}..."


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), type(value).__name__)


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (NoneType, "null"),
    (str, "a string"),
    ((int, float), "a number"),
    ((list, tuple), "an array"),
    (Mapping, "an object"),
)


def _segment(key: str) -> str:
    """A key in a path, as JSONPath (RFC 9535) writes it; a long one is cut."""
    return f".{key}" if key.isascii() and key.isidentifier() and len(key) <= _LIMIT else f"[{_shown(key)}]"
