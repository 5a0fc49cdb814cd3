"""What several commands have in common: kinds of arguments and options, each of which says what it expects."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..targets import Target

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # which older versions of click cannot subscript

__all__ = [
    "PROFILE",
    "SECONDS",
    "SECONDS_OR_NONE",
    "SERVICE_NAME",
    "SIZE",
    "TEXT",
    "Group",
    "configuration",
    "decorated",
    "service_options",
    "uri_argument",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def decorated(function: _Function, decorators: Iterable[Callable[[Any], Any]]) -> _Function:
    """`function` with the decorators on it, the first outermost, as if they stood above it in this order."""
    for decorator in reversed(list(decorators)):
        function = decorator(function)
    return function


class Group(click.Group):
    """Lists its commands in the order of their use. click would list them by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, as they were added."""
        return list(self.commands)


class _TargetType(_ParamType):
    name = "MODULE:ATTRIBUTE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Target:
        if isinstance(value, Target):
            return value
        module, colon, attribute = value.rpartition(":")
        target = Target(module, attribute) if colon else Target(value)
        if not target.module or not all(part.isidentifier() for part in target.attribute.split(".")):
            self._fail(value, parameter, context)
        if not target.is_file and not all(target.module.split(".")):
            self._fail(value, parameter, context)
        return target

    def _fail(self, value: str, parameter: click.Parameter | None, context: click.Context | None) -> None:
        self.fail(
            f"{value!r}: expected MODULE:ATTRIBUTE, as in package.module:service or path/to/file.py:service",
            parameter,
            context,
        )


class _EndpointType(_ParamType):
    name = "endpoint"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from ..config.endpoints import endpoint_flaw

        text = TEXT.convert(value, parameter, context)
        flaw = endpoint_flaw(text)
        if flaw is None and text.startswith("inproc://"):
            flaw = "an inproc endpoint is known within one process only"
        if flaw is not None:
            self.fail(f"{text!r}: {flaw}", parameter, context)
        return text


class _ServiceName(_ParamType):
    name = "name"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from ..config.meta import service_name_flaw

        text = TEXT.convert(value, parameter, context)
        if flaw := service_name_flaw(text):
            self.fail(f"{text!r}: {flaw}", parameter, context)
        return text


class _Seconds(_ParamType):
    name = "seconds"

    def __init__(self, or_none: bool = False) -> None:
        self._or_none = or_none

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (0 < seconds < _FOREVER or (self._or_none and seconds == 0)):
            least = "from 0 on" if self._or_none else "above 0"
            self.fail(f"{value!r}: expected a number of seconds {least}, as in 2.5", parameter, context)
        return seconds


class _Size(_ParamType):
    name = "size"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from ..config.daemon import size_of

        if size_of(value) is None:
            self.fail(f"{value!r}: expected a number of bytes, or one with a unit, as in 512M", parameter, context)
        return str(value)


class _Text(_ParamType):
    name = "text"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:  # Python hands undecodable arguments over as lone surrogates
            self.fail("expected text in UTF-8; --file or stdin take any bytes", parameter, context)
        return str(value)


class _ProfileFile(_ParamType):
    name = "file"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        file = Path(value).absolute()
        if file.suffix not in _PROFILE_SUFFIXES:
            self.fail(
                f"{value!r}: expected a name that ends in {', '.join(_PROFILE_SUFFIXES)}, which says the form",
                parameter,
                context,
            )
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            self.fail(f"{value!r} cannot be written", parameter, context)
        return file


class _Override(_ParamType):
    name = "PATH=VALUE"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        path, equals, text = TEXT.convert(value, parameter, context).partition("=")
        if not path or not equals:
            self.fail(
                f"{value!r}: expected PATH=VALUE, as in servers.echo.request.uri=tcp://127.0.0.1:5000",
                parameter,
                context,
            )
        return path, text


_PROFILE_SUFFIXES = (".html", ".json", ".txt")
_FOREVER = 1e9  # seconds; poll takes milliseconds as an int of the platform
TEXT = _Text()
"""Text that can be sent."""
SERVICE_NAME = _ServiceName()
"""What a service is called."""
SIZE = _Size()
"""A number of bytes."""
PROFILE = _ProfileFile()
"""A file for a profile, which is written in the form that its suffix says."""
SECONDS = _Seconds()
"""A duration above 0."""
SECONDS_OR_NONE = _Seconds(or_none=True)
"""A duration, or 0."""


def uri_argument(function: _Function) -> _Function:
    """Take the argument URI."""
    return click.argument("uri", type=_EndpointType())(function)


def service_options(function: _Function) -> _Function:
    """Take what says which service to load, and its configuration: `target`, `config`, `overrides`, `patch`."""
    decorators = (
        click.argument("target", type=_TargetType(), metavar="MODULE[:ATTRIBUTE]"),
        click.option("-c", "--config", metavar="FILE", help="The configuration, a file of YAML."),
        click.option(
            "--set",
            "overrides",
            type=_Override(),
            metavar="PATH=VALUE",
            multiple=True,
            help="Replace one value of the configuration ('servers.echo.request.uri=tcp://127.0.0.1:5000'). The value "
            "is YAML. Can be given several times, and without a file.",
        ),
        click.option(
            "--patch/--no-patch",
            default=True,
            show_default=True,
            help="Whether gevent patches the standard library before the module is imported.",
        ),
    )
    return decorated(function, decorators)


def configuration(config: str | None, overrides: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """The arguments of `Service.load` and `Service.start` for these options. Of equal paths the last one counts."""
    if config is None and not overrides:
        raise click.UsageError("no configuration: give a file with -c FILE, or its values with --set PATH=VALUE")
    source: dict[str, Any] = {"config_dict": {"servers": {}}} if config is None else {"config_file": config}
    return {**source, "overrides": dict(overrides)}
