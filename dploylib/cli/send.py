"""`dploylib send`: hands one envelope over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from .bodies import envelope_from, envelope_options
from .credentials import security_options
from .parameters import SECONDS, uri_argument
from .peers import connected, peer_socket, show_frames, time_is_up

if TYPE_CHECKING:
    from ..security import Security
    from ..transport import Envelope

__all__ = ["command"]


@click.command("send", epilog="Example: dploylib send tcp://127.0.0.1:5000 --id news --json '{\"temperature\": 21}'")
@uri_argument
@envelope_options
@security_options
@click.option(
    "--type",
    "socket_type",
    type=click.Choice(["push", "dealer", "pair"]),
    default="push",
    show_default=True,
    help="push for a PULL socket, dealer for REP and ROUTER (no reply is waited for), pair for PAIR.",
)
@click.option("--timeout", type=SECONDS, default=5.0, show_default=True, help="Seconds to wait for the peer.")
@click.option("-v", "--verbose", is_flag=True, help="Print the frames that are sent to stderr.")
def command(
    uri: str, socket_type: str, timeout: float, verbose: bool, security: Security | None, **source: Any
) -> None:
    """Hand one envelope over to the peer at URI, without a reply.

    The body is TEXT, --json or --file. Without any of them, or with - for TEXT, it is what comes from stdin.

    Exit status 0 means that the envelope was sent to a peer that was connected, not that the peer did anything with it.
    """
    envelope = _routed(envelope_from(**source), socket_type)
    expires = time.monotonic() + timeout
    with peer_socket(socket_type, security=security) as socket:
        with connected(socket, uri, timeout):
            socket.send_envelope(envelope)
        # The end of this block waits until everything is sent, or this has passed.
        socket.set_option("linger", int(max(0.0, expires - time.monotonic()) * 1000))
    if time.monotonic() >= expires:
        time_is_up(f"{uri}: connected, but the peer did not take all of the envelope within {timeout:g} s")
    if verbose:
        show_frames(">", envelope.transfer_object())


def _routed(envelope: Envelope, socket_type: str) -> Envelope:
    """The envelope as this type has to write it. REP and ROUTER look for a delimiter, which a DEALER does not add."""
    if socket_type != "dealer":
        return envelope
    from ..transport import Envelope, Metadata

    return Envelope(envelope.id, envelope.mimetype, envelope.data, [Metadata().to_frame()])
