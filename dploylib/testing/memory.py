"""Handlers without sockets: a server whose sockets are lists, with the real dispatch, codec and life of servers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.pool import Group
from gevent.queue import Empty, Queue

from ..clients.encoding import envelope_of
from ..config import Settings
from ..errors import (
    ConfigurationError,
    DeadlineExceeded,
    MalformedEnvelope,
    ReceiveTimeout,
    SocketClosed,
    SocketStateError,
    UnknownOption,
    Unroutable,
)
from ..security import Peer
from ..servers import Server
from ..transport import MAX_FRAMES, Envelope, Metadata, Problem, ReceivedData, Socket, SocketHandler
from ..transport.options import Options, option_pairs, option_value, socket_type_constant
from ..transport.spawning import spawn_named, wait_for_one

__all__ = ["BySocket", "HandlerResult", "InMemoryServer", "call_handler", "in_memory"]

_CANNOT_SEND = ("pull", "sub")
_CANNOT_RECEIVE = ("push", "pub")


class BySocket(dict[str, Any]):
    """A dict by the configured names of sockets, which knows the attributes that declare them, too."""

    def __init__(self, values: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        super().__init__(values)
        self._aliases = aliases

    def __missing__(self, name: str) -> Any:
        if name not in self._aliases:
            raise KeyError(f"no socket {name!r}; there are {', '.join(self) or 'none'}")
        return self[self._aliases[name]]


@dataclasses.dataclass(frozen=True)
class HandlerResult:
    """What became of a message.

    `sent` has what was sent meanwhile, by socket: a list of `ReceivedData`, or of frames where these are no envelope.
    `reply` is what the caller gets, or the first of it; `problem` is the problem in it; both may be None. `error` is
    what the handler raised, or why it was not called or given up, as `Server.on_error` gets to see it.
    """

    sent: BySocket
    reply: ReceivedData | None
    problem: Problem | None
    error: BaseException | None


@contextlib.contextmanager
def in_memory(
    server_cls: type[Server],
    *,
    name: str = "tested",
    general: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    graceful_timeout: float = 1.0,
    **sockets: Any,
) -> Iterator[InMemoryServer]:
    """A context manager within which a server runs without sockets: it is set up, and torn down in the end.

    For example::

        with in_memory(Shop, general={"currency": "EUR"}, orders={"timeout": 5}) as shop:
            assert shop.call("orders", {"item": "tea"}).reply.json == {"cents": 250}

    `general` are the general settings, `settings` those of its own, the other keywords those of the sockets by name.
    Its background greenlets run. What the server raises in its start, its `teardown`, or in the background is raised
    here.
    """
    it = InMemoryServer(server_cls, name, general or {}, settings or {}, sockets)
    try:
        yield it
    except BaseException:
        it._end(graceful_timeout)
        raise
    it._end(graceful_timeout)
    if not it._told:
        it._raise_failure()


def call_handler(
    server_cls: type[Server],
    name: str,
    obj: Any,
    *,
    id: str = "",
    deadline: float | None = None,
    reraise: bool = True,
    peer: Peer | None = None,
    general: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **sockets: Any,
) -> HandlerResult:
    """Call one handler of a server that is there for nothing else: `InMemoryServer.call` within `in_memory`.

    For example::

        assert call_handler(EchoServer, "request", "hello").reply.text == "hello"
    """
    with in_memory(server_cls, general=general, settings=settings, **sockets) as it:
        return it.call(name, obj, id=id, deadline=deadline, reraise=reraise, peer=peer)


class InMemoryServer:
    """A server that runs without sockets: what `in_memory` yields. `server` is the server."""

    def __init__(
        self,
        server_cls: type[Server],
        name: str,
        general: Mapping[str, Any],
        settings: Mapping[str, Any],
        sockets: Mapping[str, Mapping[str, Any]],
    ) -> None:
        declared = server_cls.description.sockets
        self._aliases = {attribute: one.name for attribute, one in declared.items()}
        infos = {one.name: {"uri": f"inproc://{one.name}"} for one in declared.values()}
        for socket, values in sockets.items():
            infos.setdefault(self._aliases.get(socket, socket), {}).update(values)
        own = {name: dict(settings)} if settings else {}
        loaded = Settings({"servers": {name: infos}, "settings": own, "general": dict(general)})
        problems = loaded.check_declared({name: server_cls.description.declared})
        if problems:
            raise ConfigurationError(problems)
        self._loop = _Loop()
        self._notes: dict[Any, _Note] = {}  # by the greenlet of the handler
        self._trouble: BaseException | None = None  # of its teardown
        self._callers = 0
        self._told = False  # why the server has died
        self._context = _Context()
        make: Any = server_cls
        self.server = make(name, loaded.server_settings(name), None, self._context, self._loop)
        self._on_error, self.server.on_error = self.server.on_error, self._take_note
        self._teardown, self.server.teardown = self.server.teardown, self._tear_down
        self._serving = spawn_named(f"server {name}", self._serve)
        wait_for_one(self._loop.ready, self._serving)
        self._raise_failure()

    @property
    def sent(self) -> BySocket:
        """All that was sent so far, by socket, as in `HandlerResult`."""
        return self._sent_since({})

    def feed(self, name: str, obj: Any, *, id: str = "") -> None:
        """Let a socket without a handler receive something, now or when somebody waits for it: a reply to a REQ, say.

        `obj` is as with `call`.
        """
        socket = self._socket(name, has_handler=False)
        socket.inbox.put(_frames(obj, id, None, self._caller(socket)))

    def call(
        self,
        name: str,
        obj: Any,
        *,
        id: str = "",
        deadline: float | None = None,
        reraise: bool = True,
        peer: Peer | None = None,
    ) -> HandlerResult:
        """Let a socket receive a message, and return what became of it when it is handled.

        `obj` is a str, bytes, an `Envelope`, or whatever is to be encoded as JSON. `id` is the envelope's. `deadline`
        is how many seconds the caller says that it will wait. `peer` is who it is: what `received.peer` is, and whom
        handlers that are for some groups look at.

        When the handler raises, or does not answer, or not in time, that is raised here; unless `on_error` took care of
        it, or `reraise` is False: then there is the problem that its caller would get. What is the mistake of the
        caller is never raised.
        """
        socket = self._socket(name, has_handler=True)
        self._check_alive()
        before, caller = self._counts(), self._caller(socket)
        frames = _frames(obj, id, deadline, caller)
        frames[-1] = _SentBy(frames[-1], peer)
        handling = self._loop.handle(socket, frames)
        self._notes[handling] = note = _Note()
        try:
            handling.join()
        finally:
            handling.kill()
            del self._notes[handling]
        self._check_alive()
        for error in (handling.exception, note.trouble, note.error if note.unexpected else None):
            if error is not None and reraise:
                raise error
        sent = self._sent_since(before)
        replies = (one for one in sent[name] if isinstance(one, ReceivedData))
        reply = next((one for one in replies if one.envelope.request_frames[: len(caller)] == caller), None)
        problem = None if reply is None else Problem.from_envelope(reply.envelope)
        return HandlerResult(sent, reply, problem, note.error)

    def __repr__(self) -> str:
        return f"<InMemoryServer {self.server!r}>"

    def _socket(self, name: str, has_handler: bool) -> Any:
        socket = self.server.sockets[name]
        if (socket in self._loop.handlers) is not has_handler:
            raise LookupError(
                f"socket {name!r} has no handler to call; feed() is for what others receive on it"
                if has_handler
                else f"socket {name!r} has a handler: call() it"
            )
        return socket

    def _caller(self, socket: Any) -> list[bytes]:
        """What is in front of the message of a new peer: on a ROUTER, its routing id."""
        if socket.socket_type != "router":
            return []
        self._callers += 1
        caller = b"caller %d" % self._callers
        socket.peers.add(caller)
        return [caller]

    def _counts(self) -> dict[str, int]:
        return {name: len(socket.outbox) for name, socket in self.server.sockets.items()}

    def _sent_since(self, before: Mapping[str, int]) -> BySocket:
        sent = {
            name: [_message(frames) for frames in socket.outbox[before.get(name, 0) :]]
            for name, socket in self.server.sockets.items()
        }
        return BySocket(sent, self._aliases)

    # Its life --------------------------------------------------------------------------------------------------

    def _serve(self) -> BaseException | None:
        try:
            self.server.start()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test is
            return error
        return None

    def _end(self, graceful_timeout: float) -> None:
        self.server.stop(graceful_timeout)
        self._serving.join()
        self._context.close()

    def _raise_failure(self) -> None:
        error = (self._serving.value if self._serving.dead else None) or self._trouble
        if error is not None:
            self._told = True
            raise error

    def _check_alive(self) -> None:
        if self.server.stopping:
            self._serving.join()
            self._raise_failure()

    def _tear_down(self) -> None:
        try:
            self._teardown()
        except BaseException as error:
            self._trouble = error
            raise

    def _take_note(self, socket: Any, received: ReceivedData | None, error: BaseException) -> Any:
        """What the server has for its `on_error`: its own one, and what became of it is noted."""
        note = self._notes.get(gevent.getcurrent()) or _Note()
        note.error = error
        sent = socket.sent
        try:
            answer = self._on_error(socket, received, error)
        except BaseException as trouble:
            note.trouble = trouble
            raise
        callers_mistake = received is None or error is received.fault or isinstance(error, DeadlineExceeded)
        note.unexpected = answer is None and socket.sent == sent and not callers_mistake
        return answer


class _Note:
    """What became of a handler."""

    error: BaseException | None = None
    trouble: BaseException | None = None  # of `on_error`
    unexpected = False


class _Loop:
    """A loop that feeds to handlers what it is told to."""

    def __init__(self) -> None:
        self.handlers: dict[Any, tuple[SocketHandler, BoundedSemaphore]] = {}
        self.ready = Event()
        self._stopped = Event()
        self._running = Group()

    def register(self, socket: Socket, handler: SocketHandler, concurrency: int = 1) -> None:
        """Let the handler be called for the socket, up to `concurrency` times at once."""
        self.handlers[socket] = handler, BoundedSemaphore(concurrency)

    def run(self) -> None:
        """Wait until `stop`, and for the handlers that run."""
        self.ready.set()
        self._stopped.wait()
        self._running.join()

    def stop(self) -> None:
        """Let `run` return."""
        self._stopped.set()

    def kill(self, timeout: float = 0.0) -> None:
        """Stop, and end the handlers that run."""
        self.stop()
        self._running.kill(timeout=timeout)

    def handle(self, socket: Any, frames: list[bytes]) -> gevent.Greenlet[..., None]:
        """Let the socket receive a message and its handler handle it, in a greenlet."""
        handler, room = self.handlers[socket]

        def handle() -> None:
            with room:
                socket.inbox.put(frames)
                handler(socket)

        greenlet = spawn_named(f"receive {getattr(handler, 'name', socket)}", handle)
        self._running.add(greenlet)
        return greenlet


class _Context:
    """Makes sockets that are none."""

    green = False

    def __init__(self) -> None:
        self._sockets: list[_MemorySocket] = []

    def __repr__(self) -> str:
        return "<a context in memory (there are no sockets in memory: pass clients, or doubles, in by general=)>"

    def socket(self, socket_type: str, options: Options | None = None, credentials: Any = None) -> _MemorySocket:
        """A new socket of this type. Raises `UnknownSocketType`."""
        socket_type_constant(socket_type)
        socket = _MemorySocket(socket_type, self)
        self._sockets.append(socket)
        for name, value in option_pairs(options):
            socket.set_option(name, value)
        return socket

    def close(self) -> None:
        """Close all of them."""
        for socket in self._sockets:
            socket.close()


class _MemorySocket(Socket):
    """A socket that keeps what is sent in `outbox`, and receives what is put into `inbox`."""

    def __init__(self, socket_type: str, context: Any) -> None:
        # Not that of a Socket, which has one of pyzmq. What is not overridden here needs these.
        self._type = socket_type
        self._context = context
        self._endpoints: list[str] = []
        self._max_frames = self._most_frames = MAX_FRAMES
        self.guard: Any = _Guard()
        self.subscribed = False
        self.sent = self.received = self.dropped = 0
        self.outbox: list[list[bytes]] = []
        self.inbox: Queue[list[bytes]] = Queue()
        self._options: dict[str, Any] = {"rcvtimeo": -1, "sndtimeo": -1}
        self._closed = False
        self.peers: set[bytes] = set()  # the routing ids of a ROUTER's peers
        self.asked = False  # whether a REQ waits for its reply

    @property
    def zmq_socket(self) -> Any:
        """Raises `TypeError`: there is none."""
        raise TypeError("a socket in memory has no socket of pyzmq")

    @property
    def green(self) -> bool:
        """Whether it is a socket of a green context: no."""
        return False

    @property
    def closed(self) -> bool:
        """Whether the socket was closed."""
        return self._closed

    def set_option(self, option: str, value: Any) -> None:
        """Take note of an option. Raises `UnknownOption` when there is none such."""
        self._options[option.lower()] = option_value(option, value)
        self.subscribed |= option.lower() == "subscribe"

    def get_option(self, option: str) -> Any:
        """The value that was set. Raises `UnknownOption` when none was."""
        try:
            return self._options[option.lower()]
        except KeyError:
            raise UnknownOption(f"option {option} was not set, and in memory there are no others", self) from None

    def subscribe(self, topic: str | bytes = "") -> None:
        """Take note of it. Whatever is fed is received."""
        self.set_option("subscribe", topic)

    def unsubscribe(self, topic: str | bytes = "") -> None:
        """Take note of it."""
        self.set_option("unsubscribe", topic)

    def bind(self, uri: str, descriptor: int | None = None) -> None:
        """Take note of the endpoint."""
        self._endpoints.append(uri)

    def connect(self, uri: str) -> None:
        """Take note of the endpoint."""
        self._endpoints.append(uri)

    def unbind(self, uri: str | None = None) -> None:
        """Forget the endpoint."""
        self._forget(uri or self.endpoint)

    def disconnect(self, uri: str | None = None) -> None:
        """Forget the endpoint."""
        self._forget(uri or self.endpoint)

    def send_frames(self, frames: Sequence[Any], timeout: float | None = None) -> None:
        """Keep a message. Raises what a socket raises, as far as that is not about peers."""
        self._check("send", _CANNOT_SEND)
        message = [bytes(memoryview(frame)) for frame in frames]
        if not message:
            raise TypeError("a message needs at least one frame")
        if self._type == "router" and message[0] not in self.peers:
            raise Unroutable(
                f"cannot send on {self!r}: no peer has the routing id in the first frame", self, message[0]
            )
        if self._type == "req":
            self._take_turn("send", self.asked)
            self.asked = True
        self.outbox.append(message)
        self.sent += 1

    def receive_frames(self, timeout: float | None = None, copy: bool = True) -> list[bytes]:
        """Take the next message that was fed, or wait for it. Raises `ReceiveTimeout`, or `MalformedEnvelope`."""
        self._check("receive", _CANNOT_RECEIVE)
        if self._type == "req":
            self._take_turn("receive", not self.asked)
        if timeout is None and self._options["rcvtimeo"] >= 0:
            timeout = self._options["rcvtimeo"] / 1000
        try:
            frames = self.inbox.get(timeout=timeout)
        except Empty:
            raise ReceiveTimeout(f"nothing was fed to {self!r} within {timeout} s", self) from None
        self.asked = False
        self.received += 1
        if len(frames) > self._most_frames:
            raise MalformedEnvelope(f"more than the {self._max_frames} frames that are taken", frames)
        return frames

    def readable(self, likely: bool = True) -> bool:
        """Whether there is a message to receive now."""
        return not self.inbox.empty()

    def wait_readable(self, timeout: float | None = None) -> bool:
        """Wait until there is a message to receive; False when `timeout` seconds passed first."""
        try:
            self.inbox.peek(timeout=timeout)
        except Empty:
            return False
        return True

    def close(self, linger: float | None = None) -> None:
        """Close it. What was sent is kept."""
        self._closed = True

    def _take_turn(self, action: str, wrong: bool) -> None:
        if wrong:
            raise SocketStateError(f"cannot {action} on {self!r}: req sockets send and receive in turn", self)

    def _check(self, action: str, cannot: tuple[str, ...]) -> None:
        if self._closed:
            raise SocketClosed(f"cannot {action}: the {self._type} socket was closed")
        if self._type in cannot:
            raise SocketStateError(f"cannot {action} on {self!r}: {self._type} sockets do not {action}", self)


class _SentBy(bytes):
    """A body that tells who sent it, as a `zmq.Frame` does."""

    peer: Peer | None

    def __new__(cls, body: bytes, peer: Peer | None) -> _SentBy:
        """The body, sent by this peer, or by somebody."""
        sent = super().__new__(cls, body)
        sent.peer = peer
        return sent

    @property
    def bytes(self) -> bytes:
        """The body alone."""
        return bytes(memoryview(self))


class _Guard:
    """Knows who sent a message, if the test says so."""

    def take_sender(self, frames: list[Any]) -> Any:
        """What says who sent the message: its body, of which the bytes alone are left there."""
        body = frames[-1]
        frames[-1] = body.bytes
        return body

    def has_put_out(self, body: _SentBy) -> bool:
        """Whether he may not connect any more: that is not for tests in memory."""
        return False

    def peer(self, body: _SentBy) -> Peer | None:
        """Who sent it."""
        return body.peer


def _frames(obj: Any, id: str, deadline: float | None, caller: list[bytes]) -> list[bytes]:
    """The frames of an object in a message of this caller."""
    envelope = envelope_of(obj, id)
    route = [*caller, *envelope.request_frames]
    if deadline is not None:
        route.append(Metadata(milliseconds_left=deadline * 1000).to_frame())
    return [*route, *([b""] if route else []), *envelope.transfer_object()[-3:]]


def _message(frames: list[bytes]) -> ReceivedData | list[bytes]:
    """What was sent, if it is an envelope; of a ROUTER, with its route in the request frames."""
    try:
        return ReceivedData(Envelope.from_raw(frames))
    except MalformedEnvelope:
        return frames
