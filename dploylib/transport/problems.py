"""Error replies: envelopes of `application/problem+json` with a body as in RFC 9457. No I/O happens here."""

from __future__ import annotations

import msgspec

from ..errors import (
    DeadlineExceeded,
    Forbidden,
    HandlerEnded,
    HandlerTimeout,
    InvalidData,
    MalformedEnvelope,
    NoReply,
    Overloaded,
    PeerError,
    ShuttingDown,
    UndecodableData,
    UnexpectedMimetype,
    WorkerLost,
)
from .codecs import PROBLEM_MIMETYPE, essence
from .envelope import Envelope

__all__ = ["Problem", "handler_failed", "is_problem", "problem_of", "type_of"]

_TEXT_LIMIT = 500  # characters; an error text may quote what a peer sent


class Problem(msgspec.Struct, frozen=True):
    """An error reply. `type` is a stable urn, `status` an HTTP status number, `detail` says what happened this time.

    Nothing internal goes into one: no traceback, no text of an exception that a handler raised.
    """

    type: str
    title: str
    status: int
    detail: str = ""

    def to_json(self) -> bytes:
        """The body to send. It never fails: what cannot be said in UTF-8 is replaced."""
        # A lone surrogate (from os.fsdecode, say) is the only str that msgspec cannot encode.
        type, title, detail = (
            text[:_TEXT_LIMIT].encode(errors="replace").decode() for text in (self.type, self.title, self.detail)
        )
        return msgspec.json.encode(Problem(type, title, self.status, detail))

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Problem | None:
        """The problem in an envelope, or None if there is none in it."""
        if not is_problem(envelope):
            return None
        try:
            return msgspec.json.decode(envelope.data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return cls("about:blank", "Unreadable problem", 500, envelope.data.decode(errors="replace"))


def is_problem(envelope: Envelope) -> bool:
    """Whether an envelope is an error reply, readable or not."""
    return essence(envelope.mimetype) == PROBLEM_MIMETYPE


_PROBLEMS: dict[type[BaseException], tuple[str, str, int]] = {
    MalformedEnvelope: ("malformed-envelope", "Malformed envelope", 400),
    UnexpectedMimetype: ("unexpected-mimetype", "Unexpected mimetype", 400),
    UndecodableData: ("undecodable-data", "Undecodable body", 400),
    InvalidData: ("invalid-data", "Invalid data", 422),
    Forbidden: ("forbidden", "Forbidden", 403),
    PeerError: ("bad-request", "Bad request", 400),
    NoReply: ("no-reply", "No reply", 500),
    Overloaded: ("overloaded", "Overloaded", 503),
    ShuttingDown: ("shutting-down", "Shutting down", 503),
    WorkerLost: ("worker-lost", "Worker lost", 503),
    HandlerEnded: ("handler-ended", "Handler ended", 503),
    HandlerTimeout: ("handler-timeout", "Handler timed out", 504),
    DeadlineExceeded: ("deadline-exceeded", "Deadline exceeded", 504),
}


def problem_of(
    error: PeerError
    | NoReply
    | Overloaded
    | ShuttingDown
    | WorkerLost
    | HandlerEnded
    | HandlerTimeout
    | DeadlineExceeded,
) -> Problem:
    """What to tell a peer about its own mistake, or about what became of its message: all that the error says."""
    kind = next(kind for kind in type(error).__mro__ if kind in _PROBLEMS)
    _, title, status = _PROBLEMS[kind]
    return Problem(type_of(kind), title, status, str(error))


def type_of(kind: type[BaseException]) -> str:
    """The type of the problems that are made of errors of this class."""
    return f"urn:dploylib:{_PROBLEMS[kind][0]}"


def handler_failed(where: str) -> Problem:
    """The handler raised. What it raised is in our log, not in the reply."""
    return Problem("urn:dploylib:handler-failed", "Handler failed", 500, f"the handler of {where} failed")
