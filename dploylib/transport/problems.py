"""Error replies: envelopes of `application/problem+json` with a body as in RFC 9457. No I/O happens here."""

from __future__ import annotations

import msgspec

from ..errors import InvalidData, MalformedEnvelope, PeerError, UndecodableData, UnexpectedMimetype
from .codecs import PROBLEM_MIMETYPE, essence
from .envelope import Envelope

__all__ = ["Problem"]

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
        if essence(envelope.mimetype) != PROBLEM_MIMETYPE:
            return None
        try:
            return msgspec.json.decode(envelope.data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return cls("about:blank", "Unreadable problem", 500, envelope.data.decode(errors="replace"))


def peer_problem(error: PeerError) -> Problem:
    """What to tell a peer about its own mistake: all of it."""
    name, title, status = _PEER_PROBLEMS.get(type(error), ("bad-request", "Bad request", 400))
    return Problem(f"urn:dploylib:{name}", title, status, str(error))


_PEER_PROBLEMS: dict[type[PeerError], tuple[str, str, int]] = {
    MalformedEnvelope: ("malformed-envelope", "Malformed envelope", 400),
    UnexpectedMimetype: ("unexpected-mimetype", "Unexpected mimetype", 400),
    UndecodableData: ("undecodable-data", "Undecodable body", 400),
    InvalidData: ("invalid-data", "Invalid data", 422),
}


def handler_failed(where: str) -> Problem:
    """The handler raised. What it raised is in our log, not in the reply."""
    return Problem("urn:dploylib:handler-failed", "Handler failed", 500, f"the handler of {where} failed")


def handler_timeout(where: str, seconds: float) -> Problem:
    """The handler ran longer than its `timeout`, in seconds."""
    detail = f"the handler of {where} did not finish within {seconds:g} s"
    return Problem("urn:dploylib:handler-timeout", "Handler timed out", 504, detail)


def deadline_exceeded(where: str) -> Problem:
    """The caller's deadline passed before the handler was done."""
    detail = f"the deadline that came with the request passed before {where} was done"
    return Problem("urn:dploylib:deadline-exceeded", "Deadline exceeded", 504, detail)


def no_reply(where: str) -> Problem:
    """The handler neither sent a reply nor returned one."""
    detail = f"the handler of {where} neither sent a reply nor returned one"
    return Problem("urn:dploylib:no-reply", "No reply", 500, detail)


def shutting_down(where: str) -> Problem:
    """The service stops and has no time left for this request."""
    detail = f"the service of {where} is shutting down"
    return Problem("urn:dploylib:shutting-down", "Shutting down", 503, detail)
