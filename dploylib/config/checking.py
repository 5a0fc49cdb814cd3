"""Checks plain data against a type and finds everything that is wrong with it.

`msgspec.convert` stops at the first error. The checker walks the type instead (Structs, `dict`, `list`, `tuple`,
unions) and leaves only the scalars to msgspec. It knows nothing of the configuration: what is special about a
field stands with that field, as `Meta(extra={"flaw": function})`. The function gets a value and returns what is
wrong with it, or None.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, Union, get_args, get_origin

import msgspec

from .problems import UNREADABLE, Path, did_you_mean, segment, shown, yaml_type
from .reading import plain_scalar

__all__ = ["Checker", "Report"]

Report: TypeAlias = Callable[[Path, str], None]
"""Takes note of a problem: the path to a value, and what is wrong with it."""

_SCALARS: Final[dict[type, str]] = {
    str: "string",
    int: "integer",
    float: "finite number",
    bool: "boolean",
    NoneType: "null",
}


class _Branch(NamedTuple):
    """One alternative of a type: as it was written, and taken apart into the bare type and its Meta."""

    written: Any
    kind: Any
    metas: tuple[msgspec.Meta, ...]

    @property
    def base(self) -> Any:
        """The type to handle this branch by: `dict` for `dict[str, int]`."""
        if isinstance(self.kind, type) and issubclass(self.kind, msgspec.Struct):
            return msgspec.Struct
        return get_origin(self.kind) or self.kind

    def accepts(self, data: object) -> bool:
        """Whether a scalar is of this type and within its bounds. Infinity and NaN never are."""
        if self.base not in _SCALARS or (isinstance(data, float) and not math.isfinite(data)):
            return False
        try:
            msgspec.convert(data, self.written)
        except msgspec.ValidationError:
            return False
        return True

    def flaw(self, data: object) -> str | None:
        """What the functions of the field itself find wrong with `data`."""
        checks = (meta.extra["flaw"] for meta in self.metas if meta.extra)
        return next((flaw for check in checks if (flaw := check(data))), None)

    def __str__(self) -> str:
        if self.base is msgspec.Struct:
            return f"mapping ({', '.join(field.encode_name for field in msgspec.structs.fields(self.kind))})"
        bounds = [f" >= {meta.ge}" for meta in self.metas if meta.ge is not None]
        bounds += [f" > {meta.gt}" for meta in self.metas if meta.gt is not None]
        bounds += [f" and <= {meta.le}" for meta in self.metas if meta.le is not None]
        return _SCALARS.get(self.base, "mapping" if self.base is dict else "list") + "".join(bounds)


class Checker:
    """Reports every problem that it meets to `report`."""

    def __init__(self, report: Report, placeholders: Collection[Path] = ()) -> None:
        """A string at one of `placeholders` is read as YAML where the type takes no string."""
        self._report = report
        self._placeholders = placeholders

    def check(self, data: Any, kind: Any, path: Path = ()) -> Any:
        """`data` in a form that `msgspec.convert` takes for `kind`, provided that nothing was reported.

        Null where a mapping is expected becomes an empty one: a section whose lines are all commented out.
        """
        branches = list(_branches(kind))
        bases = {branch.base for branch in branches}
        if data is UNREADABLE or Any in bases:
            return data
        if data is None and NoneType not in bases and bases & {dict, msgspec.Struct}:
            data = {}
        walks = self._walks(data)
        for branch in branches:
            if branch.base in walks:
                return walks[branch.base](data, branch, path)
        return self._scalar(data, branches, path)

    def _walks(self, data: object) -> dict[Any, Callable[[Any, _Branch, Path], Any]]:
        """How to walk `data`, by the base of the branch that it is walked along."""
        if isinstance(data, Mapping):
            return {msgspec.Struct: self._struct, dict: self._dict}
        return {list: self._list, tuple: self._tuple} if isinstance(data, (list, tuple)) else {}

    def _struct(self, data: Mapping[Any, Any], branch: _Branch, path: Path) -> dict[str, Any]:
        fields = {field.encode_name: field for field in msgspec.structs.fields(branch.kind)}
        for key in data:
            if key not in fields:
                hint = did_you_mean(key, fields, "known keys")
                self._report((*path, segment(key)), f"unknown key {segment(key)!r}{hint}")
        for name, field in fields.items():
            if field.required and name not in data:
                self._report(path, f"missing key {name!r} ({_expected(field.type)})")
        return {name: self.check(data[name], fields[name].type, (*path, name)) for name in fields if name in data}

    def _dict(self, data: Mapping[Any, Any], branch: _Branch, path: Path) -> dict[Any, Any]:
        key_kind, value_kind = get_args(branch.kind)
        for key in data:
            self._key(key, key_kind, (*path, segment(key)))
        return {key: self.check(value, value_kind, (*path, segment(key))) for key, value in data.items()}

    def _key(self, key: object, kind: Any, path: Path) -> None:
        if not isinstance(key, str):
            self._report(path, f"a key has to be a string, found {shown(key, ())}; {_quote_it(key)}")
        for flaw in filter(None, (branch.flaw(key) for branch in _branches(kind))):
            self._report(path, flaw)

    def _list(self, data: list[Any] | tuple[Any, ...], branch: _Branch, path: Path) -> list[Any]:
        least = max((meta.min_length or 0 for meta in branch.metas), default=0)
        if len(data) < least:
            self._report(path, f"found a list of {len(data)}, expected at least {least}")
        (kind,) = get_args(branch.kind)
        return [self.check(item, kind, (*path, str(index))) for index, item in enumerate(data)]

    def _tuple(self, data: list[Any] | tuple[Any, ...], branch: _Branch, path: Path) -> list[Any]:
        kinds = get_args(branch.kind)
        if len(data) != len(kinds):
            expected = ", ".join(map(_expected, kinds))
            self._report(path, f"found a list of {len(data)}, expected a list of {len(kinds)}: {expected}")
            return []
        # A pair is a name and its value: the name in the path tells which value, and whether it is a secret.
        names = ["0", *(data[0] if isinstance(data[0], str) else str(index) for index in range(1, len(data)))]
        return [self.check(item, kind, (*path, name)) for item, kind, name in zip(data, kinds, names, strict=True)]

    def _scalar(self, data: Any, branches: list[_Branch], path: Path) -> Any:
        if path in self._placeholders and str not in {branch.base for branch in branches}:
            with contextlib.suppress(ValueError):  # what is wrong with it is said below
                data = plain_scalar(data)
        flaw = next((flaw for branch in branches if (flaw := branch.flaw(data))), None)
        if flaw is None and not any(branch.accepts(data) for branch in branches):
            flaw = f"expected {_either(branches)}"
        if flaw:
            wants_scalar = any(branch.base in _SCALARS for branch in branches)
            self._report(path, f"found {shown(data, path) if wants_scalar else yaml_type(data)}, {flaw}")
        return data


def _branches(written: Any) -> Iterator[_Branch]:
    kind, *metas = get_args(written) if get_origin(written) is Annotated else (written,)
    if get_origin(kind) in (Union, UnionType):
        for alternative in get_args(kind):
            yield from _branches(alternative)
    else:
        yield _Branch(written, kind, tuple(metas))


def _expected(kind: Any) -> str:
    return _either(list(_branches(kind)))


def _either(branches: list[_Branch]) -> str:
    names = list(dict.fromkeys(str(branch) for branch in branches if branch.kind is not NoneType))
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _quote_it(key: object) -> str:
    if isinstance(key, bool):
        return 'YAML reads on, off, yes and no as booleans: quote the key, as in "on"'
    return f'quote it: "{segment(key)}"'
