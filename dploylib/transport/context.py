"""The context wrapper: what sockets are made from."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, ClassVar

import gevent
import zmq
import zmq.green
from gevent.event import Event

from ..errors import SocketClosed, TransportError
from ..security import Credentials, Security
from .authenticator import Authenticator
from .options import Options, option_pairs, socket_type_constant
from .socket import Socket
from .spawning import start_thread

__all__ = ["DEFAULT_LINGER", "Context"]

DEFAULT_LINGER = 5.0
"""Seconds for which a closed socket still sends what is queued. libzmq's own default is for ever."""

_GUARDS_PATIENCE = DEFAULT_LINGER + 1.0  # seconds


class Context:
    """A wrapper around a ZeroMQ context.

    `zmq_context` is a `zmq.green.Context`, or a plain `zmq.Context`: then its sockets block the thread that waits.
    `green` says which it is. inproc endpoints are known within one context only. `credentials` secure the sockets that
    are made without any of their own.
    """

    _instance: ClassVar[Context | None] = None

    def __init__(self, zmq_context: Any) -> None:
        if not isinstance(zmq_context, zmq.Context):
            raise TypeError(f"expected a zmq.green.Context or zmq.Context, got {zmq_context!r}; see Context.new()")
        self._zmq_context: zmq.Context[Any] = zmq_context
        self.green = isinstance(zmq_context, zmq.green.Context)
        self.credentials: Credentials | None = None
        self._authenticator: Authenticator | None = None
        self._borrows_authenticator = False
        self._terminates = False
        self._linger: int | None = None
        self._termination: Event | None = None
        # No weak references: gevent's watcher keeps a green socket alive until it is closed, whoever forgot it.
        self._sockets: set[Socket] = set()

    @classmethod
    def new(cls, security: Security | None = None) -> Context:
        """A new context of `zmq.green`, whose sockets linger for `DEFAULT_LINGER` seconds when closed.

        `security` is how those are secured that are not secured otherwise. Raises `SecurityError`.
        """
        credentials = None if security is None else Credentials(security)
        context = cls(zmq.green.Context())
        context.credentials = credentials
        context._terminates = True
        context._linger = int(DEFAULT_LINGER * 1000)
        return context

    @classmethod
    def instance(cls) -> Context:
        """The context that the whole process shares: a wrapper around `zmq.green.Context.instance()`.

        Others may have sockets in it, which are left alone: its `close` closes only those that were made here.
        """
        zmq_context: Any = zmq.green.Context.instance()
        if cls._instance is None or cls._instance.zmq_context is not zmq_context:
            cls._instance = cls(zmq_context)
            cls._instance._linger = int(DEFAULT_LINGER * 1000)
        return cls._instance

    def for_thread(self) -> Context:
        """Another wrapper around the same context, for the sockets of another thread: they stay where they were made.

        Its `close` closes only the sockets that were made with it.
        """
        other = Context(self._zmq_context)
        other._linger = self._linger
        other.credentials = self.credentials
        other._authenticator, other._borrows_authenticator = self.authenticator, True
        return other

    @property
    def zmq_context(self) -> zmq.Context[Any]:
        """The underlying context."""
        return self._zmq_context

    @property
    def authenticator(self) -> Authenticator:
        """What decides who may connect to the sockets of this context."""
        if self._authenticator is None:
            self._authenticator = Authenticator(self)
        return self._authenticator

    @property
    def closed(self) -> bool:
        """Whether the context was closed."""
        return bool(self._zmq_context.closed)

    def socket(
        self, socket_type: str, options: Options | None = None, credentials: Credentials | None = None
    ) -> Socket:
        """A new socket of this type, by lowercase name, with these options set.

        `credentials` secure it, when it is bound or connected; those of the context, unless given. Raises
        `UnknownSocketType`, `UnknownOption`, `SocketClosed` when the context was closed, or `TransportError` when there
        can be no more sockets.
        """
        constant = socket_type_constant(socket_type)
        pairs = option_pairs(options)
        try:
            zmq_socket = self._zmq_context.socket(constant)
        except zmq.ZMQError as error:
            if self.closed or error.errno == zmq.ETERM:
                raise SocketClosed(f"cannot make a {socket_type} socket: the context was closed") from error
            raise TransportError(f"cannot make a {socket_type} socket: {error.strerror}") from error
        try:
            socket = Socket(zmq_socket, self)
        except BaseException:
            zmq_socket.close(linger=0)
            raise
        socket._waiter.shared = False  # until somebody asks for it
        socket.credentials = credentials or self.credentials
        try:
            for name, value in [("linger", self._linger), *pairs] if self._linger is not None else pairs:
                socket.set_option(name, value)
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    def close(self, linger: float | None = None) -> None:
        """Close every socket that was made here, wait until they have sent what they had, and terminate the context.

        `linger` (seconds) bounds that wait; None is what each socket says. Only the calling greenlet waits. A context
        that somebody else made and we wrap, and the one of `instance`, are not terminated, and then nothing waits, but
        for the end of sockets that looked at who connects: libzmq goes on sending for as long as the process runs.
        """
        # Before their monitors: libzmq waits for ever to tell one that is gone that it is to hear nothing more.
        for socket in sorted(self._sockets, key=lambda one: one.connection_count is None):
            if self._terminates or not socket.closes_itself:
                socket.close(linger)
        if self._authenticator is not None and not self._borrows_authenticator:
            self._authenticator.close(0 if self._terminates else _GUARDS_PATIENCE)
        if self._terminates:
            # It must not be called twice at once: who closes the context meanwhile waits for the same call.
            if self._termination is None:
                self._termination = _terminate(self._zmq_context)
            self._termination.wait()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._sockets)} sockets"
        return f"<Context {'green' if self.green else 'blocking'}, {state}>"

    def _add(self, socket: Socket) -> None:
        self._sockets.add(socket)

    def _remove(self, socket: Socket) -> None:
        self._sockets.discard(socket)


def _terminate(zmq_context: zmq.Context[Any]) -> Event:
    """Call `term()`, which blocks until the sockets have flushed, in a thread; the event is set when it returned.

    The thread is its own: those of the hub's pool may all be busy with what users do there.
    """
    terminated = Event()
    signal = gevent.get_hub().loop.async_()  # the one watcher that another thread may touch

    def finish() -> None:
        signal.stop()
        signal.close()
        terminated.set()

    def terminate() -> None:
        try:
            zmq_context.term()
        finally:
            with contextlib.suppress(ValueError):  # the hub was destroyed, since nobody waited any longer
                signal.send()

    signal.start(finish)
    start_thread(terminate)
    return terminated
