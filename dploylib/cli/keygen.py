"""`dploylib keygen`: makes a pair of keys."""

from __future__ import annotations

import click

from .parameters import TEXT

__all__ = ["command"]


@click.command("keygen", epilog="Example: dploylib keygen keys/server")
@click.argument("name", type=TEXT)
def command(name: str) -> None:
    """Make a pair of keys for CURVE.

    Writes the public key to NAME.key, for everybody to read, and both keys to NAME.key_secret, for nobody else. NAME
    may be a path. Files that are there are not overwritten.
    """
    from ..security import KeyPair, fingerprint, write_key_pair

    if name.endswith((".key", ".key_secret")):
        raise click.UsageError(f"{name!r}: leave out the ending; NAME gets .key and .key_secret by itself")
    pair = KeyPair.generate()
    public, secret = write_key_pair(name, pair)
    click.echo(fingerprint(pair.public))
    click.echo(f"{public}: the public key. Servers authorize it (dploylib key authorize), clients know a server by it.")
    click.echo(f"{secret}: the secret key. It stays where it is needed, as secret_key; nobody else may read it.")
