"""How a command fails: one clear message, and an exit status. Only what nobody foresaw has a traceback."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import NamedTuple

import click

from .. import targets
from ..errors import (
    ConfigurationError,
    DployError,
    MissingPackage,
    ModuleFailed,
    ModuleNotFound,
    PeerError,
    SecurityError,
    ServiceFailing,
    StoreError,
    TransportError,
)
from .exit_codes import ExitCode

__all__ = ["Failure", "failure_of", "printable", "reported", "tell", "users_traceback"]


class Failure(NamedTuple):
    """What to tell about an exception. `cause` is the exception whose traceback helps, if there is one."""

    code: ExitCode
    messages: list[str]
    cause: BaseException | None = None


def failure_of(error: Exception) -> Failure:
    """What to tell about `error`."""
    if isinstance(error, ConfigurationError):
        return Failure(ExitCode.CONFIGURATION, [str(problem) for problem in error.problems])
    if isinstance(error, ModuleFailed):
        return Failure(ExitCode.MODULE, [f"Error: {error}"], error.__cause__)
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code is not None:
        return Failure(code, [f"Error: {error}"])
    return Failure(ExitCode.FAILED, [f"Error: {type(error).__name__}: {error}"], error)


_CODES: tuple[tuple[type[DployError], ExitCode], ...] = (
    (ModuleNotFound, ExitCode.MODULE),
    (ServiceFailing, ExitCode.FAILED),  # the log has the traceback of the server that died
    (StoreError, ExitCode.FAILED),
    (MissingPackage, ExitCode.FAILED),
    (SecurityError, ExitCode.CONFIGURATION),
    (PeerError, ExitCode.PEER),
    (TransportError, ExitCode.TRANSPORT),
)


def tell(failure: Failure) -> None:
    """Print a failure to stderr."""
    if failure.cause is not None:
        cause = failure.cause
        lines = traceback.format_exception(type(cause), cause, users_traceback(cause))
        click.echo("".join(lines), err=True, nl=False)
    for message in failure.messages:
        click.echo(message, err=True)


@contextlib.contextmanager
def reported(how: Callable[[Failure], None] = tell) -> Iterator[None]:
    """End the process with the exit status that fits what is raised inside, and tell about it."""
    try:
        yield
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise  # click's own, about the usage
    except KeyboardInterrupt:
        sys.exit(ExitCode.SIGINT)
    except BrokenPipeError:
        _end_quietly()
    except Exception as error:  # noqa: BLE001 - the last place where it can be told
        failure = failure_of(error)
        how(failure)
        sys.exit(failure.code)


def users_traceback(error: BaseException) -> TracebackType | None:
    """The traceback of `error` from the first call on that is neither the command line's nor the import system's.

    It has all calls when there is no other one: then the mistake may be ours. A syntax error needs none.
    """
    frames = error.__traceback__
    while frames is not None and _leads_to_users_code(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    return frames if frames is not None or isinstance(error, SyntaxError) else error.__traceback__


def _leads_to_users_code(file: str) -> bool:
    return file.startswith(("<frozen importlib", _HERE)) or file in (importlib.__file__, targets.__file__)


_HERE = os.path.join(os.path.dirname(__file__), "")


def _end_quietly() -> None:
    """Whoever read our output has had enough (`| head`). Python would complain when it flushes stdout at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(ExitCode.OK)


def printable(text: str) -> str:
    """`text` with control characters escaped: what a peer sent must not steer the terminal, nor break the line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
