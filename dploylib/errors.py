"""Every exception of dploylib, under one root.

Two questions decide the shape of this file. *Whose fault was it?* What a peer did wrong is a `PeerError`;
everything else is ours or our caller's. *Did you end it, or did it break?* `SocketClosed` means that you closed
it, `ServiceFailing` that it broke. Where the standard library has a fitting exception (`TimeoutError`,
`ValueError`), ours is also one of those, so that code which knows nothing of dploylib catches it too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

__all__ = [
    "AddressInUse",
    "ConfigurationError",
    "ConfigurationProblem",
    "ConnectTimeout",
    "ConnectionLost",
    "DeadlineExceeded",
    "DeclarationError",
    "DployError",
    "EndpointError",
    "FollowTimeout",
    "Forbidden",
    "HandlerEnded",
    "HandlerTimeout",
    "HandshakeFailed",
    "InsecureEndpoint",
    "InvalidData",
    "InvalidMessage",
    "LeftBehind",
    "MalformedEnvelope",
    "MechanismMismatch",
    "MissingPackage",
    "ModuleFailed",
    "ModuleNotFound",
    "NoReply",
    "NotAuthorized",
    "Overloaded",
    "PeerError",
    "ProcessDied",
    "ReceiveTimeout",
    "RemoteError",
    "RemoteFailure",
    "RequestTimeout",
    "SecurityError",
    "SendTimeout",
    "ServerFailing",
    "ServerNotInConfiguration",
    "ServiceFailing",
    "ServiceStateError",
    "ShuttingDown",
    "SocketClosed",
    "SocketInfoNotInConfiguration",
    "SocketStateError",
    "StoreError",
    "TransientError",
    "TransportError",
    "UndecodableData",
    "UnexpectedMimetype",
    "UnknownOption",
    "UnknownSocketType",
    "Unroutable",
    "WorkerLost",
    "WrongServerKey",
]


class DployError(Exception):
    """The root of every exception that dploylib raises on its own account."""


# What a peer did wrong -----------------------------------------------------------------------------------------


class PeerError(DployError):
    """A peer sent something that it should not have sent. Nothing on this side needs mending."""


class MalformedEnvelope(PeerError, ValueError):
    """A multipart message is not an envelope.

    `reason` says what is wrong with it; `frames` carries the frames as they came (bytes), so nothing is lost; of more
    than are taken, only as many as show that.
    """

    def __init__(self, reason: str, frames: Sequence[bytes]) -> None:
        super().__init__(f"malformed envelope: {reason}")
        self.reason = reason
        self.frames = [bytes(frame) for frame in frames]  # a large one may be a zmq.Frame, which cannot be pickled

    def __reduce__(self) -> tuple[Any, ...]:  # else pickle would call it with the text alone
        return type(self), (self.reason, self.frames)


class UnexpectedMimetype(PeerError, ValueError):
    """An envelope has another mimetype than the one asked for: `receive_text` on an envelope of JSON."""


class UndecodableData(PeerError, ValueError):
    """The body is not what its mimetype says: broken JSON, or text that is not UTF-8."""


class InvalidData(PeerError, ValueError):
    """The body was decoded, but it is not the object that was declared. The message has the path to the value."""


# Messages ------------------------------------------------------------------------------------------------------


class InvalidMessage(DployError, ValueError):
    """A message of `dploylib.messages` was to be made, in this program, of values that it cannot have.

    The text names the field, the value and what was expected. You do not get it for what a peer has sent: that is an
    `InvalidData`.
    """


class StoreError(DployError):
    """The database of a store did not do what it was asked to, or the store is closed.

    The text says which database it is, without user and password, and what it said; its own error is the `__cause__`.
    Nothing was changed, unless the connection was lost while the database did so: then nobody knows.
    """


# Sockets and endpoints -----------------------------------------------------------------------------------------


class TransportError(DployError):
    """A socket could not do what it was asked to.

    Of an error in sending, `socket` is the socket, and `peer` the routing id that a ROUTER was to send to. The
    underlying `zmq.ZMQError`, where there is one, is the `__cause__`.
    """

    def __init__(self, message: str = "", socket: object = None, peer: bytes | None = None) -> None:
        super().__init__(message)
        self.socket = socket
        self.peer = peer

    def __reduce__(self) -> tuple[Any, ...]:  # a socket stays in the process that made it
        return type(self), (str(self), None, self.peer)


class UnknownSocketType(TransportError, ValueError):
    """No such socket type; the message lists those there are."""


class UnknownOption(TransportError, ValueError):
    """No such socket option, or a value that the option does not take."""


class EndpointError(TransportError, ValueError):
    """An endpoint (`tcp://127.0.0.1:5000`) that cannot be bound or connected to, and why."""


class AddressInUse(EndpointError):
    """Another socket is bound to this endpoint, in this process or in another."""


class SocketClosed(TransportError):
    """The socket, or its context, was closed on this side. You do not get it when a peer goes away."""


class SocketStateError(TransportError):
    """The socket type does not allow this now (a REP that sends before it received), or never (a PUB that receives)."""


class Unroutable(TransportError):
    """A ROUTER has no peer of that routing id, mostly because the peer is gone (see `ZMQ_ROUTER_MANDATORY`)."""


class SendTimeout(TransportError, TimeoutError):
    """Nothing was sent within the time given: there is no peer, or its queue is at the high-water mark."""


class ReceiveTimeout(TransportError, TimeoutError):
    """No message arrived within the time given. None was lost: the next receive gets it."""


class ConnectTimeout(TransportError, TimeoutError):
    """There was no connection to `endpoint` within the time given.

    `elapsed` is in seconds; `known` is what is known of it: that nobody listens there, say, or somebody else.
    """

    def __init__(self, endpoint: str, elapsed: float, known: str) -> None:
        super().__init__(f"{endpoint}: no connection within {elapsed:.3g} s: {known}")
        self.endpoint = endpoint
        self.elapsed = elapsed
        self.known = known

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.elapsed, self.known)


class TransientError(TransportError):
    """It did not work this time: the machine has no memory, buffers or descriptors left, or a signal came between.

    Trying again later may work. Nothing was sent.
    """


# Security ------------------------------------------------------------------------------------------------------


class SecurityError(DployError, ValueError):
    """Keys, passwords or lists of them that cannot be used. The text says which file, why, and how to mend it.

    `setting` is the setting of `Security` that is to be changed, where it is that. No secret is in the text.
    """

    def __init__(self, message: str, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.setting)


class InsecureEndpoint(EndpointError):
    """An endpoint over which a password would go unencrypted to another machine, or come from one."""


class HandshakeFailed(TransportError, ConnectionError):
    """There is a server at `endpoint`, but it and this client do not agree on how to talk.

    Nothing was sent. `elapsed` is in seconds, `known` says what was wrong and how to mend it.
    """

    def __init__(self, endpoint: str, elapsed: float, known: str) -> None:
        super().__init__(f"{endpoint}: {known}")
        self.endpoint = endpoint
        self.elapsed = elapsed
        self.known = known

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.elapsed, self.known)


class NotAuthorized(HandshakeFailed):
    """The server does not let this client in: not with this key, user name and password, or from this address."""


class WrongServerKey(HandshakeFailed):
    """The server is another one than the client was told: it does not have the secret key to the given `server_key`."""


class MechanismMismatch(HandshakeFailed):
    """One of both wants CURVE or PLAIN, and the other one wants something else, or nothing."""


# Calls of clients ----------------------------------------------------------------------------------------------


class RequestTimeout(TransportError, TimeoutError):
    """There was no reply by the deadline.

    `endpoint` is where the request went, or would have gone; of several it has all, separated by commas. `elapsed` is
    in seconds. `sent` is whether the request was sent, so that it may have been handled; `known` is what is known of
    the connection.
    """

    def __init__(self, endpoint: str, elapsed: float, sent: bool, known: str) -> None:
        what = "the request was sent, but there was no reply" if sent else "the request could not be sent"
        super().__init__(f"{endpoint}: {what} within {elapsed:.3g} s: {known}")
        self.endpoint = endpoint
        self.elapsed = elapsed
        self.sent = sent
        self.known = known

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.elapsed, self.sent, self.known)


class ConnectionLost(TransportError, ConnectionError):
    """The connection to `endpoint` broke after the request was sent: nobody knows whether it was handled."""

    def __init__(self, endpoint: str, elapsed: float) -> None:
        super().__init__(
            f"{endpoint}: the connection was lost after {elapsed:.3g} s, before there was a reply; "
            "the request may have been handled"
        )
        self.endpoint = endpoint
        self.elapsed = elapsed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.endpoint, self.elapsed)


class RemoteError(DployError):
    """The reply is a problem (RFC 9457): what the service says about why it did not do what it was asked to.

    `type` is a stable name (`urn:dploylib:handler-failed`), `status` an HTTP status number; `title` and `detail` are
    for people. `endpoint` is who said it.
    """

    def __init__(self, endpoint: str, type: str, title: str, status: int, detail: str = "") -> None:
        super().__init__(f"{endpoint} answered: {status} {title}{f': {detail}' if detail else ''} ({type})")
        self.endpoint = endpoint
        self.type = type
        self.title = title
        self.status = status
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, (self.endpoint, self.type, self.title, self.status, self.detail)


class RemoteFailure(DployError):
    """A service has broadcast that what it was asked to do, under this `id`, has failed. `detail` is what it said."""

    def __init__(self, id: str, detail: str = "") -> None:
        super().__init__(f"{id} failed{f': {detail}' if detail else ''}")
        self.id = id
        self.detail = detail

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.id, self.detail)


class FollowTimeout(TransportError, TimeoutError):
    """There was no sign of a request that is followed, for as long as its timeout. The text says what there was."""


# What becomes of a message that is not handled -----------------------------------------------------------------
#
# Nobody raises these to a caller of ours: they are what `Server.on_error` and hooks get to see, and their texts are
# what the peer is told.


class HandlerTimeout(DployError, TimeoutError):
    """A handler had its seconds (`timeout=`), and was given up."""


class DeadlineExceeded(DployError, TimeoutError):
    """The caller waits no longer, as it said when it called: its handler was given up, or not even begun."""


class Forbidden(PeerError):
    """Who sent the message may not: the handler is for others (`servers.allow`)."""


class NoReply(DployError):
    """The handler of a request neither sent a reply nor returned one."""


class Overloaded(DployError):
    """As many handlers run as may, and the socket rejects what comes meanwhile (`overload="reject"`)."""


class ShuttingDown(DployError):
    """The server stops: this message came too late, and nothing was done about it."""


class WorkerLost(DployError):
    """The worker that had a request is gone. It may have done what it was asked to, or a part of it."""


class HandlerEnded(DployError):
    """The server stops, and the handler did not end in time. It may have done what it was asked to, or a part of it."""


# Declarations, servers, services -------------------------------------------------------------------------------


class DeclarationError(DployError, TypeError):
    """A `Server` or `Handler` class is declared in a way that cannot work."""


class ServerFailing(DployError):
    """A server died. The cause is the `__cause__`."""


class ProcessDied(DployError):
    """The process of a server has ended and did not say why: by a signal, or an exit of its own."""


class ServiceFailing(DployError):
    """A service can no longer do its work since one of its servers died. The cause is the `__cause__`.

    You do not get it when you stopped the service yourself: then `Service.wait` returns.
    """


class ServiceStateError(DployError):
    """A call that the state of the service does not allow: starting what already runs."""


# Configuration -------------------------------------------------------------------------------------------------


class ConfigurationProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a configuration.

    `source` is the file (or `--set`, or `dict`), `line` its line counted from 1, `path` the way to the value
    (`servers.echo.request.uri`). `message` says what was found, what was expected and how to mend it.
    """

    path: str
    message: str
    source: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigurationError(DployError, ValueError):
    """A configuration cannot be used. `problems` has everything that is wrong with it, in the order of the lines.

    `usable` is what is left of the settings without the broken parts, if anything is, so that these can be checked too.
    """

    def __init__(self, problems: Iterable[ConfigurationProblem], usable: Any = None) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
        self.usable = usable
        super().__init__("\n".join(map(str, self.problems)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems, self.usable)


class ServerNotInConfiguration(DployError, LookupError):
    """Settings were asked for a server that the configuration does not have."""


class SocketInfoNotInConfiguration(DployError, LookupError):
    """Settings were asked for a socket that the configuration does not have."""


# Loading code ---------------------------------------------------------------------------------------------------


class ModuleNotFound(DployError, ImportError):
    """`MODULE:ATTRIBUTE` names a module, file or attribute that is not there."""


class ModuleFailed(DployError, ImportError):
    """The module is there, but failed while it was imported. Its own exception is the `__cause__`."""


class MissingPackage(DployError, ImportError):
    """A package that only a part of dploylib needs is not installed. The message has the command that installs it."""


# Tests ----------------------------------------------------------------------------------------------------------


class LeftBehind(DployError, AssertionError):
    """Something is there after a test that was not there before it. The message has all of it."""
