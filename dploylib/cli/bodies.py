"""The envelope that a command is to send, from its arguments or from stdin."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from .parameters import TEXT, decorated

if TYPE_CHECKING:
    from ..transport import Envelope

__all__ = ["envelope_from", "envelope_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_JSON, _TEXT, _BYTES = "application/json", "text/plain", "application/octet-stream"


def envelope_options(function: _Function) -> _Function:
    """Take what says which envelope to send: the arguments of `envelope_from`."""
    decorators = (
        click.argument("text", type=TEXT, required=False),
        click.option("--json", "json_text", type=TEXT, metavar="JSON", help="Send this JSON."),
        click.option("--file", type=click.File("rb"), help="Send what is in this file. Its name tells the mimetype."),
        click.option("--id", type=TEXT, default="", help="The id of the envelope."),
        click.option(
            "--mimetype", type=TEXT, help=f"Another mimetype than {_TEXT}, {_JSON} or what the name of the file tells."
        ),
    )
    return decorated(function, decorators)


def envelope_from(
    text: str | None, json_text: str | None, file: BinaryIO | None, id: str, mimetype: str | None
) -> Envelope:
    """The envelope to send. Exactly one source is given; without any it is stdin, unless that is a terminal."""
    from ..transport import Envelope

    sources = {"TEXT": text, "--json": json_text, "--file": file}
    given = [name for name, source in sources.items() if source is not None]
    if len(given) > 1:
        raise click.UsageError(f"there is one body to send, but {' and '.join(given)} are given: expected one of them")
    own_mimetype, body = _body(text, json_text, file)
    return Envelope(id, mimetype or own_mimetype, body)


def _body(text: str | None, json_text: str | None, file: BinaryIO | None) -> tuple[str, bytes]:
    if json_text is not None:
        return _JSON, _checked_json(json_text)
    if file is not None:
        return _guessed(file.name), file.read()
    if text is not None and text != "-":
        return _TEXT, text.encode()
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise click.UsageError("nothing to send: expected TEXT, --json, --file, or something piped in")
    body = sys.stdin.buffer.read()
    return _TEXT if _is_text(body) else _BYTES, body


def _checked_json(text: str) -> bytes:
    import msgspec

    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}", param_hint="--json") from error
    return text.encode()


def _guessed(name: object) -> str:
    mimetype, encoding = mimetypes.guess_type(str(name))
    return mimetype if mimetype and not encoding else _BYTES


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
