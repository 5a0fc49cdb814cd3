"""`dploylib call`: sends one request and prints the reply."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .bodies import envelope_from, envelope_options
from .credentials import security_options
from .exit_codes import ExitCode
from .failures import Failure, printable, tell
from .parameters import SECONDS, uri_argument
from .peers import end_quietly_by_signals, hint, show_frames, time_is_up

if TYPE_CHECKING:
    from ..security import Security
    from ..transport import Envelope

__all__ = ["command"]


@click.command("call", epilog="Example: dploylib call tcp://127.0.0.1:14445 hello --timeout 2")
@uri_argument
@envelope_options
@security_options
@click.option("--timeout", type=SECONDS, default=5.0, show_default=True, help="Seconds to wait for the reply.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print the envelopes that are sent (>) and received (<), frame by frame, to stderr.",
)
def command(uri: str, timeout: float, verbose: bool, security: Security | None, **source: Any) -> None:
    """Send a request to a REP or ROUTER socket, and print the body of its reply.

    The body of the request is TEXT, --json or --file. Without any of them, or with - for TEXT, it is what comes from
    stdin.
    """
    _print_reply(_ask(uri, envelope_from(**source), timeout, verbose, security))


def _ask(uri: str, request: Envelope, timeout: float, verbose: bool, security: Security | None) -> Envelope:
    """The reply to the request. A reply that is a problem ends the command."""
    from ..clients import RequestClient
    from ..errors import RemoteError, RequestTimeout

    end_quietly_by_signals()
    with RequestClient(uri, timeout=timeout, security=security) as client:
        if verbose:
            show_frames(">", request.transfer_object())
        try:
            reply = client.request(request).envelope
        except RequestTimeout as error:
            time_is_up(f"{error}{hint(error.known)}")
        except RemoteError as error:
            tell(Failure(ExitCode.PEER, [f"Error: {printable(str(error))}"]))
            sys.exit(ExitCode.PEER)
    if verbose:
        show_frames("<", reply.transfer_object())
    return reply


def _print_reply(reply: Envelope) -> None:
    """Print the body as it is. Text and JSON end with a newline, which is added where it is missing."""
    end = b"\n" if _is_text(reply.mimetype) and not reply.data.endswith(b"\n") else b""
    output = sys.stdout.buffer
    output.write(reply.data + end)
    output.flush()


def _is_text(mimetype: str) -> bool:
    from ..transport.codecs import JSON_MIMETYPE, essence

    kind = essence(mimetype)
    return kind.startswith("text/") or kind == JSON_MIMETYPE or kind.endswith("+json")
