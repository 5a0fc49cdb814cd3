"""`dploylib key`: shows public keys, and says whose may connect."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from .columns import aligned
from .failures import printable
from .parameters import TEXT, Group

if TYPE_CHECKING:
    from ..security import Identity

__all__ = ["command"]


@click.group("key", cls=Group, epilog="Example: dploylib key authorize authorized/ client.key --group operators")
def command() -> None:
    """Show public keys, and authorize them.

    Authorized keys are kept in a directory of NAME.key files, or in a file with lines NAME KEY GROUP,GROUP. Running
    services see what has changed there. Keys have characters that a shell takes for its own: name them by their files,
    or put them in 'single quotes'.
    """


@command.command("show", epilog="Example: dploylib key show client.key authorized/")
@click.argument("files", type=TEXT, nargs=-1, required=True, metavar="FILE...")
def show(files: tuple[str, ...]) -> None:
    """Print what is public about keys.

    One key a line: name, groups, fingerprint, public key. A FILE is one that dploylib keygen made (NAME.key or
    NAME.key_secret), or a directory or file of authorized keys. No secret is ever printed.
    """
    from ..errors import SecurityError

    found = [entry for file in files for entry in _entries(file)]
    for line in aligned([_row(one) for one in found if not isinstance(one, str)]):
        click.echo(line)
    if problems := [one for one in found if isinstance(one, str)]:
        raise SecurityError("\n".join(map(printable, problems)))


@command.command("authorize", epilog="Example: dploylib key authorize authorized/ client.key --group operators")
@click.argument("where", type=TEXT)
@click.argument("key", type=TEXT, metavar="KEYFILE")
@click.option("--name", type=TEXT, metavar="NAME", help="How the client is to be called, if not as its file says.")
@click.option(
    "--group",
    "groups",
    type=TEXT,
    metavar="GROUP",
    multiple=True,
    help="A group that it is in. Can be given several times.",
)
def authorize(where: str, key: str, name: str | None, groups: tuple[str, ...]) -> None:
    """Let the client with the public key in KEYFILE connect.

    WHERE is a directory, or a file with a line for each client; what is not there is made, a directory if WHERE ends
    with a slash. Instead of KEYFILE there may be the key itself, in 'single quotes' and with --name. Groups that are
    written in KEYFILE do not count: who a client is, is for the server to say.
    """
    from .. import security

    name, public = _public_key(key, name)
    place = security.authorize(where, name, public, groups)
    click.echo(f"{name} is authorized in {place}: {security.fingerprint(public)}")


@command.command("revoke", epilog="Example: dploylib key revoke authorized/ client")
@click.argument("where", type=TEXT)
@click.argument("who", type=TEXT)
def revoke(where: str, who: str) -> None:
    """Let a client connect no more. WHO is its name, its fingerprint, its public key or the file of that (NAME.key).

    WHERE is the directory or the file with the authorized keys.
    """
    from .. import security
    from ..security.keys import PUBLIC_SUFFIX, SECRET_SUFFIX

    if who.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)) and os.path.isfile(who):
        who = security.read_certificate(who).credential
    for identity in security.revoke(where, who):
        click.echo(f"{identity.name} was removed from {where}: {security.fingerprint(identity.credential)}")


def _entries(file: str) -> Iterator[Identity | str]:
    """The keys in a file or directory, or what is wrong there."""
    from ..errors import SecurityError
    from ..security import read_certificate
    from ..security.authorized import identities
    from ..security.keys import PUBLIC_SUFFIX, SECRET_SUFFIX

    try:
        if file.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)) and not os.path.isdir(file):
            yield read_certificate(file)
        else:
            yield from (entry for _, entry in identities(file))
    except SecurityError as error:
        yield str(error)


def _row(one: Identity) -> tuple[str, str, str, str]:
    from ..security import fingerprint

    return one.name, ",".join(sorted(one.groups)) or "-", fingerprint(one.credential), one.credential


def _public_key(given: str, name: str | None) -> tuple[str, str]:
    """The name and the public key of a client, from its file or itself."""
    from ..errors import SecurityError
    from ..security import read_certificate
    from ..security.keys import has_secret_key, is_key

    if is_key(given) and not os.path.exists(given):
        if name is None:
            raise click.UsageError("a key by itself has no name: give --name NAME, or the file that it is in")
        return name, given
    if has_secret_key(given):
        raise SecurityError(
            f"{given} has a secret key, which stays where it is: nobody else needs it; the file with the public key "
            "is meant, NAME.key"
        )
    identity = read_certificate(given)
    return name or identity.name, identity.credential
