"""What a command proves who it is with, and knows its server by."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from .parameters import decorated

if TYPE_CHECKING:
    from ..security import Security

__all__ = ["security_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def security_options(function: _Function) -> _Function:
    """Take what a connection is secured by, and hand it over as `security`: None when nothing is said.

    Files of keys are read by who makes the connection; that of the password is read here, for the password is never an
    argument, which everybody on the machine could see. Raises `SecurityError`.
    """

    @functools.wraps(function)
    def command(
        server_keys: tuple[str, ...],
        secret_key: str | None,
        username: str | None,
        password_file: str | None,
        insecure: bool,
        **rest: Any,
    ) -> Any:
        return function(security=_security(server_keys, secret_key, username, password_file, insecure), **rest)

    decorators = (
        click.option(
            "--server-key",
            "server_keys",
            multiple=True,
            metavar="KEY|FILE",
            help="The public key of the server (CURVE), or the file that it is in. Can be given several times: one "
            "must be its own.",
        ),
        click.option("--key", "secret_key", metavar="FILE", help="The file with our own secret key (NAME.key_secret)."),
        click.option("--username", metavar="NAME", help="The name to log in with (PLAIN)."),
        click.option(
            "--password-file",
            metavar="FILE",
            help="The file whose first line is the password. Nobody else may be able to read it.",
        ),
        click.option("--insecure", is_flag=True, help="Let the password go to other machines, for anybody to read."),
    )
    return cast(_Function, decorated(command, decorators))


def _security(
    server_keys: tuple[str, ...],
    secret_key: str | None,
    username: str | None,
    password_file: str | None,
    insecure: bool,
) -> Security | None:
    if secret_key is not None and not server_keys:
        raise click.UsageError("--key proves who we are, and to whom has to be known: give --server-key, too")
    if (username is None) is not (password_file is None):
        raise click.UsageError("--username and --password-file belong together: give both")
    if username is not None and server_keys:
        raise click.UsageError("--server-key is for CURVE and --username for PLAIN: give one of them")
    if username is None and not server_keys:
        return None
    from ..security import Security

    password = None if password_file is None else _password_in(password_file)
    return Security(
        server_key=list(server_keys) or None,
        secret_key=secret_key,
        username=username,
        password=password,
        insecure=insecure or None,
    )


def _password_in(path: str) -> str:
    from ..errors import SecurityError
    from ..security.files import read_text

    password = read_text(path, "password", private=True).partition("\n")[0].removesuffix("\r")
    if not password:
        raise SecurityError(f"there is no password in the first line of {path}")
    return password
