"""`dploylib call`: sends one request and prints the reply."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from .bodies import envelope_from, envelope_options
from .exit_codes import ExitCode
from .failures import Failure, printable, tell
from .parameters import SECONDS, uri_argument
from .peers import connect, peer_socket, show_frames, time_is_up

if TYPE_CHECKING:
    from ..transport import Envelope

__all__ = ["command"]


@click.command("call", epilog="Example: dploylib call tcp://127.0.0.1:14445 hello --timeout 2")
@uri_argument
@envelope_options
@click.option("--timeout", type=SECONDS, default=5.0, show_default=True, help="Seconds to wait for the reply.")
@click.option("-v", "--verbose", is_flag=True, help="Print the frames that are sent (>) and received (<) to stderr.")
def command(uri: str, timeout: float, verbose: bool, **source: Any) -> None:
    """Send a request to a REP or ROUTER socket, and print the body of its reply.

    The body of the request is TEXT, --json or --file. Without any of them, or with - for TEXT, it is what comes from
    stdin.
    """
    request = envelope_from(**source)
    reply = _exchange(uri, request, timeout, verbose)
    _print_reply(uri, reply)


def _exchange(uri: str, request: Envelope, timeout: float, verbose: bool) -> Envelope:
    from ..errors import ReceiveTimeout
    from ..transport import Envelope

    expires = time.monotonic() + timeout
    with peer_socket("req") as socket:
        connect(socket, uri, timeout)
        socket.send_envelope(request)
        if verbose:
            show_frames(">", request.transfer_object())
        try:
            frames = socket.receive_frames(max(0.0, expires - time.monotonic()))
        except ReceiveTimeout:
            time_is_up(f"{uri}: connected, but no reply within {timeout:g} s")
    if verbose:
        show_frames("<", frames)
    return Envelope.from_raw(frames)


def _print_reply(uri: str, reply: Envelope) -> None:
    """Print the body as it is. Text and JSON end with a newline, which is added where it is missing."""
    from ..transport import Problem

    problem = Problem.from_envelope(reply)
    if problem is not None:
        detail = f": {problem.detail}" if problem.detail else ""
        message = printable(f"{uri} answered: {problem.status} {problem.title}{detail} ({problem.type})")
        tell(Failure(ExitCode.PEER, [f"Error: {message}"]))
        sys.exit(ExitCode.PEER)
    end = b"\n" if _is_text(reply.mimetype) and not reply.data.endswith(b"\n") else b""
    output = sys.stdout.buffer
    output.write(reply.data + end)
    output.flush()


def _is_text(mimetype: str) -> bool:
    from ..transport.codecs import JSON_MIMETYPE, essence

    kind = essence(mimetype)
    return kind.startswith("text/") or kind == JSON_MIMETYPE or kind.endswith("+json")
