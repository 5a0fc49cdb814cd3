"""What comes of shaking hands with a server, and what to prove who one is with the next time."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable
from typing import NamedTuple

import zmq

from ..errors import HandshakeFailed, MechanismMismatch, NotAuthorized, WrongServerKey
from ..security import Credentials, fingerprint
from ..transport import Socket, SocketEvent
from .diagnosis import mechanism_at
from .hello import has_key

__all__ = ["Handshakes", "Refusal", "known_of", "refusal_by_all"]

log = logging.getLogger(__name__)

_DENIED = 400  # the status of ZAP (ZeroMQ RFC 27); with others, the server could not decide
_AT_LEAST = 2  # handshakes in a row that fail before it is the key: one may be with a server that is just being stopped
_VALID = 1.0  # seconds for which a reason is good, while libzmq tries again and again

# Of each mechanism: what a client without it lacks, what one with it has, and how to get it.
_LACKS = {"PLAIN": "no user name and password", "CURVE": "no key"}
_HAS = {"PLAIN": "a user name and a password (PLAIN)", "CURVE": "a server key (CURVE)"}
_REMEDIES = {
    "PLAIN": ": give security=Security(username=..., password=...), or --username and --password-file",
    "CURVE": ": give security=Security(server_key=..., secret_key=...), or --server-key and --key",
}


class Refusal(NamedTuple):
    """Why a server and a client do not agree: which error that is, and what is known, in words."""

    error: type[HandshakeFailed]
    known: str


class Handshakes:
    """Connects sockets to one endpoint, and knows what comes of it.

    `refusal` is why server and client did not agree when it was tried last; None when they did, when it is not known,
    and when nobody was there. `failures` is how often in a row the server did not show that it has the key.
    """

    def __init__(self, uri: str, credentials: Credentials | None) -> None:
        self.uri = uri
        self.refusal: Refusal | None = None
        self.failures = 0
        self._credentials = credentials
        self._server_keys = [] if credentials is None else list(credentials.server_keys)
        self._turn = 0  # of the server key: the one that is the right one stays
        self._mechanism = "NULL"
        self._explained = False  # why the last try failed
        self._mismatched = False  # as libzmq says it, by chance
        self._judged_at = -math.inf

    def __repr__(self) -> str:
        return f"<Handshakes {self.uri} {self._mechanism}>"

    def connect(self, socket: Socket) -> None:
        """Connect a socket, with the server key whose turn it is. Raises `EndpointError` and `SecurityError`."""
        if self._credentials is not None:
            socket.credentials = self._credentials.at(self._turn)
        socket.connect(self.uri)
        self._mechanism = zmq.SecurityMechanism(socket.get_option("mechanism")).name

    def hear(self, event: SocketEvent) -> bool:
        """Take note of an event; returns whether `refusal` is another one now."""
        before, kind = self.refusal, event.kind
        if kind == "connected":
            self._explained = self._mismatched = False
        elif kind == "handshake_succeeded" or kind == "closed":  # the latter is a connection that could not be made
            self.refusal = None
            self.failures = 0
        elif kind == "handshake_failed_auth":  # by who has the right key, and speaks the same mechanism
            self._explained = True
            self.failures = 0
            self._conclude(Refusal(NotAuthorized, self._denial()) if event.value == _DENIED else None)
        elif kind == "handshake_failed_protocol":
            self._mismatched = event.value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
        return self.refusal is not before

    def judge(self, socket: Socket) -> bool:
        """After a try that failed, find out why: the server is asked, for a moment.

        Returns whether it is to be tried with another server key, which the next `connect` takes.
        """
        if self._explained:
            return False
        if self.refusal is not None and time.monotonic() - self._judged_at < _VALID:
            return self.refusal.error is WrongServerKey and self._next_key()
        theirs = mechanism_at(self.uri)
        if theirs != self._mechanism and (theirs or self._mismatched):
            self.failures = 0
            self._conclude(Refusal(MechanismMismatch, self._mismatch(theirs)))
        elif theirs == "CURVE" and self._lacks_key(socket):
            another = self._next_key()
            tried = self.failures >= max(_AT_LEAST, len(self._server_keys))
            self._conclude(Refusal(WrongServerKey, self._wrong_key()) if tried else None)
            return another
        else:  # a socket of another type, or no ZeroMQ at all
            self._conclude(None)
        return False

    def _lacks_key(self, socket: Socket) -> bool:
        """Whether the server does not have the key that it was thought to have."""
        if self._credentials is None:  # the key is an option of the socket, and not for us to know
            return False
        return has_key(self.uri, socket.context, self._credentials.at(self._turn)) is False

    def _next_key(self) -> bool:
        """Count a failure. Returns whether there is another server key, which is used from now on."""
        self.failures += 1
        self._turn += 1
        return len(self._server_keys) > 1

    def _conclude(self, refusal: Refusal | None) -> None:
        if refusal is not None and refusal != self.refusal:
            log.info("%s: %s", self.uri, refusal.known)  # no warning: whom it concerns is told by an exception
        if refusal != self.refusal:
            self.refusal = refusal
        self._judged_at = time.monotonic()

    # In words ----------------------------------------------------------------------------------------------------

    def _denial(self) -> str:
        refused = "the server does not let this client in"
        own = self._credentials
        if self._mechanism == "CURVE":
            if own is not None and not own.key:
                return (
                    f"{refused}: it wants an authorized key, and this client has none of its own; give secret_key (or "
                    "--key), and authorize its public key on the side of the server (dploylib key authorize)"
                )
            key = f" with its key {own.key}" if own is not None else " with its key"
            return (
                f"{refused}{key}: authorize that on the side of the server (dploylib key authorize), or find out there "
                "whether it was revoked, is in none of the groups that may, or the address of this machine may not"
            )
        if self._mechanism == "PLAIN":
            user = f" as user {own.security.username!r}" if own is not None else ""
            return (
                f"{refused}{user}: the user name or the password is wrong, or the user is in none of the groups that "
                "may, or the address of this machine may not"
            )
        return f"{refused}: the address of this machine may not connect"

    def _mismatch(self, theirs: str) -> str:
        if not theirs:
            return f"the server wants another security mechanism than {self._mechanism}, which this client uses"
        has = _HAS.get(self._mechanism, self._mechanism)
        if theirs == "NULL":
            return (
                f"the server speaks no {self._mechanism}: it is open (NULL), and this client has {has}: give it none, "
                "or secure the server"
            )
        if self._mechanism == "NULL":
            has = _LACKS.get(theirs, "none of that")
        return f"the server wants {theirs}, and this client has {has}{_REMEDIES.get(theirs, '')}"

    def _wrong_key(self) -> str:
        keys = " or ".join(map(fingerprint, self._server_keys))
        return (
            f"the server does not have the key that was expected (server_key), {keys}: it is another server, or its "
            "key was changed; one that has too many connections from this address hangs up in the same way"
        )


def refusal_by_all(endpoints: Iterable[Handshakes], elapsed: float) -> HandshakeFailed | None:
    """The error of an attempt that took so many seconds, if nobody at these endpoints agrees with this client.

    It is of the kind of the first, and says what is known of each. None as long as one of them may still be of use.
    """
    refusals = []
    for one in endpoints:
        if one.refusal is None:
            return None
        refusals.append((one.uri, one.refusal))
    if not refusals:
        return None
    uris = ", ".join(uri for uri, _ in refusals)
    return refusals[0][1].error(uris, elapsed, known_of((uri, refusal.known) for uri, refusal in refusals))


def known_of(endpoints: Iterable[tuple[str, str]]) -> str:
    """What is known of the connections to these endpoints, each with words about it, in one text."""
    each = list(endpoints)
    return each[0][1] if len(each) == 1 else "; ".join(f"{uri}: {words}" for uri, words in each)
