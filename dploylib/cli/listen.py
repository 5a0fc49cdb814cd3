"""`dploylib listen`: prints envelopes as they come."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import click

from .credentials import security_options
from .failures import printable
from .parameters import SECONDS, TEXT, uri_argument
from .peers import connected, peer_socket, time_is_up

if TYPE_CHECKING:
    from ..security import Security
    from ..transport import Envelope, Socket

__all__ = ["command"]


@click.command("listen", epilog="Example: dploylib listen tcp://127.0.0.1:5001 --id weather --count 1")
@uri_argument
@security_options
@click.option(
    "--id",
    "topics",
    type=TEXT,
    multiple=True,
    metavar="TOPIC",
    help="Only envelopes whose id begins with this. Can be given several times; only for --type sub.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N envelopes.")
@click.option(
    "--timeout",
    type=SECONDS,
    help="End with exit status 5 when there is no connection, or nothing comes, for so many seconds.",
)
@click.option(
    "--type",
    "socket_type",
    type=click.Choice(["sub", "pull", "pair"]),
    default="sub",
    show_default=True,
    help="sub for a PUB socket, pull for PUSH, pair for PAIR.",
)
@click.option("--bind", is_flag=True, help="Bind to URI instead of connecting to it; prints the endpoint to stderr.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print of each: id, mimetype and body in a line of text, or an object of JSON a line.",
)
def command(
    uri: str,
    topics: tuple[str, ...],
    count: int | None,
    timeout: float | None,
    socket_type: str,
    bind: bool,
    form: str,
    security: Security | None,
) -> None:
    """Print the envelopes that come from URI, one a line.

    Ctrl-C ends it.
    """
    if topics and socket_type != "sub":
        raise click.UsageError(f"--id is for --type sub: a {socket_type} socket gets everything")
    if bind and security is not None:
        raise click.UsageError("keys, user names and passwords are for connections, and not for --bind")
    options = [("subscribe", topic) for topic in topics or ("",)] if socket_type == "sub" else []
    line_for = _as_json if form == "json" else _as_text
    with peer_socket(socket_type, options, security) as socket:
        if bind:
            socket.bind(uri)
            click.echo(f"listening at {socket.endpoint}", err=True)
            _print_all(socket, count, timeout, f"{socket.endpoint}: ", line_for)
        else:
            with connected(socket, uri, timeout):
                _print_all(socket, count, timeout, f"{uri}: connected, but ", line_for)


def _print_all(socket: Socket, count: int | None, timeout: float | None, where: str, line_for: Any) -> None:
    from ..errors import MalformedEnvelope, ReceiveTimeout

    seen = 0
    while count is None or seen < count:
        try:
            envelope = socket.receive_envelope(timeout)
        except MalformedEnvelope as error:
            click.echo(printable(str(error)), err=True)
            continue
        except ReceiveTimeout:
            time_is_up(f"{where}nothing came for {timeout:g} s")
        click.echo(line_for(envelope).encode())  # which flushes
        seen += 1


def _as_text(envelope: Envelope) -> str:
    try:
        body = printable(envelope.text)
    except UnicodeDecodeError:
        body = repr(envelope.data)
    return f"{printable(envelope.id) or '-'} {printable(envelope.mimetype) or '-'} {body}"


def _as_json(envelope: Envelope) -> str:
    """An object of `id`, `mimetype` and the body: `json` if it is JSON, else `text`, or `base64` if it is not UTF-8."""
    from ..errors import PeerError
    from ..transport import ReceivedData

    received = ReceivedData(envelope)
    entry: dict[str, Any] = {"id": envelope.id, "mimetype": envelope.mimetype}
    try:
        entry["json"] = received.json
    except PeerError:
        try:
            entry["text"] = received.text
        except PeerError:
            entry["base64"] = base64.b64encode(envelope.data).decode()
    return json.dumps(entry)
