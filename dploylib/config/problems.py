"""Problems: where a value was written, and the words in which errors speak of it."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import ConfigurationProblem

__all__ = [
    "UNREADABLE",
    "Path",
    "Place",
    "SourceMap",
    "brief",
    "did_you_mean",
    "dotted",
    "is_secret",
    "looks_secret",
    "segment",
    "shown",
    "yaml_type",
]

Path: TypeAlias = tuple[str, ...]
"""The way to a value: `("servers", "echo", "request", "uri")`. The items of a list are counted from "0"."""

UNREADABLE: Final[Any] = object()
"""Stands for a value that could not be read. Its problem is known already, so that nobody reports it again."""

_OVERRIDE = "--set"
_SECRET = re.compile(r"pass(word|wd|phrase)|\bpass\b|pwd|secret|credential|token|key", re.IGNORECASE)
_YAML_TYPES: Final[dict[type, str]] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    bytes: "binary",
    datetime.datetime: "timestamp",
    datetime.date: "date",
    list: "list",
    tuple: "list",
    Mapping: "mapping",
}


class Place(NamedTuple):
    """A file, `dict`, `string` or `--set`, and a line in it counted from 1 where there are lines."""

    source: str
    line: int | None = None


class SourceMap:
    """Knows where each value of a configuration was written."""

    def __init__(self, source: str, lines: Mapping[Path, int] | None = None) -> None:
        self._places: dict[Path, Place] = {(): Place(source)}
        self._places |= {path: Place(source, line) for path, line in (lines or {}).items()}
        self.placeholders: Collection[Path] = ()
        """Where a quoted string was nothing but one placeholder, which YAML wants quoted inside { } and [ ]."""

    def override(self, path: Path) -> None:
        """Note that the value at `path`, with all that is in it, comes from `--set`."""
        self._places = {known: place for known, place in self._places.items() if known[: len(path)] != path}
        self._places[path] = Place(_OVERRIDE)

    def written(self, path: Path, source: str) -> None:
        """Note that the value at `path`, with all that is in it, is from another source, which has no lines."""
        self._places[path] = Place(source)

    def problem(self, path: Path, message: str) -> ConfigurationProblem:
        """A problem at `path`. Where the path itself was never written, its nearest ancestor gives the line."""
        ancestors = (path[:length] for length in range(len(path), -1, -1))
        place = next(self._places[ancestor] for ancestor in ancestors if ancestor in self._places)
        return ConfigurationProblem(path=dotted(path), message=message, source=place.source, line=place.line)


def dotted(path: Path) -> str:
    """`servers.echo.request`. A name that would tear the line apart is quoted."""
    return ".".join(part if part.isprintable() and part else brief(part) for part in path)


def segment(key: object) -> str:
    """A key of a mapping as a part of a path."""
    return key if isinstance(key, str) else brief(key)


def brief(value: object, limit: int = 60) -> str:
    """`repr(value)`, cut to `limit` characters."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a caller's repr can fail in any way, and must not hide the other problems
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def yaml_type(value: object) -> str:
    """What YAML calls the type of `value`: `mapping` for a dict. Other types keep their Python name."""
    return next((name for kind, name in _YAML_TYPES.items() if isinstance(value, kind)), type(value).__name__)


def shown(value: object, path: Path) -> str:
    """`'abc' (string)`: a scalar in an error. Of containers and foreign objects only the type, of secrets nothing."""
    kind = yaml_type(value)
    if not isinstance(value, (str, int, float)):
        return kind
    text = "***" if is_secret(path) else str(value).lower() if isinstance(value, bool) else brief(value)
    return f"{text} ({kind})"


def is_secret(path: Path) -> bool:
    """Whether a value must not be printed, going by its keys. Names of servers and sockets tell nothing of values."""
    return any(map(looks_secret, path[3:] + path[-1:] if "servers" in path[:2] else path))


def looks_secret(text: str) -> bool:
    """Whether `text`, a key or a line, speaks of a password, secret, token, key or the like."""
    return _SECRET.search(text) is not None


def did_you_mean(name: object, known: Collection[str], label: str) -> str:
    """`; did you mean 'uri'? (known keys: uri, options)`: the end of an error about a name that is not there."""
    by_lowercase = {text.lower(): text for text in known}
    nearest = difflib.get_close_matches(segment(name).lower(), by_lowercase, n=1)
    question = f"; did you mean {by_lowercase[nearest[0]]!r}?" if nearest else ""
    return f"{question} ({label}: {', '.join(known) or 'none'})"
