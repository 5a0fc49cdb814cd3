"""From a file, a text or a dict to `Settings`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeAlias

import msgspec

from ..errors import ConfigurationError, ConfigurationProblem
from .environment import EnvironmentFiller
from .model import Configuration, Settings
from .problems import UNREADABLE, Path, SourceMap, dotted, is_secret, segment, yaml_type
from .reading import MAX_DEPTH, Document, read_yaml

__all__ = ["Defaults", "YAMLConfigMapper"]

Defaults: TypeAlias = Iterable[tuple[str, Mapping[str, Any]]]
"""Configurations that lie below another one, each after what errors call it, the strongest last."""

*_KEYS, _LAST_KEY = (field.encode_name for field in msgspec.structs.fields(Configuration))
_EXPECTED = f"expected a mapping with the keys {', '.join(_KEYS)} and {_LAST_KEY}"


class YAMLConfigMapper:
    """Loads configurations written in YAML.

    Placeholders are filled from `environ`; without it from `os.environ`, as it is when a configuration is loaded.

    Every method takes `overrides`: values by dotted path, as `--set` gives them. A value is YAML
    (`{"servers.echo.request.uri": "[tcp://a:1, tcp://b:1]"}`). What is missing on the way is created.

    And every method takes `defaults`: configurations, as `process_dict` takes them, whose values count where the one
    that is loaded has none. Mappings are merged, key by key; anything else, a list too, is replaced as a whole. Null in
    place of a mapping is an empty one, and replaces nothing. `("template Echoes", {...})` is one with the name that
    errors in it have for their source. Of several, the last one that has a value counts.

    Every method raises ConfigurationError with all that is wrong.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ

    def process(
        self, path: str | os.PathLike[str], overrides: Mapping[str, str] | None = None, defaults: Defaults = ()
    ) -> Settings:
        """Load a file of YAML in UTF-8."""
        return self._settings(read_yaml(_read_file(path)), os.fspath(path), overrides, defaults)

    def process_string(
        self, text: str, overrides: Mapping[str, str] | None = None, defaults: Defaults = ()
    ) -> Settings:
        """Load a text of YAML."""
        return self._settings(read_yaml(text), "string", overrides, defaults)

    def process_dict(
        self, data: Mapping[str, Any], overrides: Mapping[str, str] | None = None, defaults: Defaults = ()
    ) -> Settings:
        """Load a dict, which is left as it is. A string with placeholders is read as YAML once it is filled."""
        return self._settings(Document(data, {}, []), "dict", overrides, defaults)

    def _settings(
        self, document: Document, source: str, overrides: Mapping[str, str] | None, defaults: Defaults
    ) -> Settings:
        loading = _Loading(document, source)
        for name, data in reversed(list(defaults)):
            loading.default(name, data)
        for key, text in (overrides or {}).items():
            loading.override(tuple(key.split(".")), text)
        return loading.settings(os.environ if self._environ is None else self._environ)


class _Loading:
    """One configuration on its way from data to settings."""

    def __init__(self, document: Document, source: str) -> None:
        self._data = document.data
        self._sources = SourceMap(source, document.lines)
        self._problems: list[ConfigurationProblem] = []
        for path, message in document.problems:
            self._report(path, message)

    def default(self, source: str, data: Mapping[str, Any]) -> None:
        """Put what `data` has, and what is there has not, below it."""
        self._data = self._merged(data, self._data, (), source)

    def override(self, path: Path, text: str) -> None:
        """Put the YAML value `text` at `path`."""
        self._sources.override(path)
        value = read_yaml(text, secret=is_secret(path))
        for inner, message in value.problems:
            self._report(path + inner, message)
        if all(path):
            self._data = self._with_value(self._data, path, value.data)
        else:
            self._report(path, "a path is made of keys with dots between them, as in servers.echo.request.uri")

    def settings(self, environ: Mapping[str, str]) -> Settings:
        """Fill the placeholders and check the result. Raises ConfigurationError."""
        if self._data is None:
            self._report((), f"the configuration is empty, {_EXPECTED}")
            self._data = UNREADABLE
        filler = EnvironmentFiller(environ, self._report)
        filled = filler.fill(self._data)
        self._sources.placeholders = filler.alone
        return Settings(filled, self._sources, self._problems)

    def _merged(self, below: Any, above: Any, path: Path, source: str) -> Any:
        if not isinstance(below, Mapping) or not isinstance(above, Mapping | None) or len(path) > MAX_DEPTH:
            return above
        merged = dict(above or {})
        for key, value in below.items():
            here = (*path, segment(key))
            if key in merged:
                merged[key] = self._merged(value, merged[key], here, source)
            else:
                merged[key] = value
                self._sources.written(here, source)
        return merged

    def _with_value(self, data: Any, path: Path, value: Any, depth: int = 0) -> Any:
        """A copy of `data`, which is `depth` keys down `path`, with `value` at the end of `path`."""
        if depth == len(path):
            return value
        if data is UNREADABLE:
            return data
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            where = dotted(path[:depth]) or "the configuration"
            self._report(path, f"cannot be set, as {where} is not a mapping (found {yaml_type(data)})")
            return data
        key = path[depth]
        if key not in data:
            self._sources.override(path[: depth + 1])
        return {**data, key: self._with_value(data.get(key), path, value, depth + 1)}

    def _report(self, path: Path, message: str) -> None:
        self._problems.append(self._sources.problem(path, message))


def _read_file(path: str | os.PathLike[str]) -> str:
    try:
        return FilePath(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _unreadable_file(path, f"not UTF-8 (byte 0x{error.object[error.start]:02x})", line) from error
    except FileNotFoundError as error:
        message = f"no such file: {FilePath(path).absolute()} (expected a YAML file)"
        raise _unreadable_file(path, message) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot be read as a YAML file: {reason} ({FilePath(path).absolute()})"
        raise _unreadable_file(path, message) from error


def _unreadable_file(path: str | os.PathLike[str], message: str, line: int | None = None) -> ConfigurationError:
    return ConfigurationError([ConfigurationProblem("", message, os.fspath(path), line)])
