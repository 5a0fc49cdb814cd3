"""The socket wrapper: ZeroMQ sockets that send and receive envelopes."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import gevent
import zmq
import zmq.green
from zmq.backend import Socket as _CSocket

from ..errors import (
    AddressInUse,
    EndpointError,
    InsecureEndpoint,
    MalformedEnvelope,
    ReceiveTimeout,
    SecurityError,
    SendTimeout,
    SocketClosed,
    SocketStateError,
    TransientError,
    TransportError,
    UnknownOption,
    Unroutable,
)
from ..ipc_lock import IpcLock, is_no_socket, lockable_path
from ..security import Credentials
from ..security.credentials import IPC_PERMISSIONS
from .codecs import JSON_MIMETYPE, TEXT_MIMETYPE, decode_data, decode_object, decode_text, encode_object
from .envelope import MAX_FRAMES, Envelope, adopt
from .options import Options, option_constant, option_pairs, option_value, shown, socket_type_name
from .reading import LARGE, ROUTING_TYPES, TURN_TYPES, knowing_reader_for, reader_for
from .received import ReceivedData
from .spawning import new_lock
from .waiting import GreenWaiter, TimeIsUp, waiter_for

if TYPE_CHECKING:
    from ..statistics import Connections
    from .context import Context
    from .guard import Guard

__all__ = ["BLOCKING_SECONDS", "Sender", "Socket"]

# The C methods below zmq.green and below pyzmq's Python layer.
_send: Callable[..., None] = _CSocket.send
_get: Callable[..., Any] = _CSocket.get
_set: Callable[..., None] = _CSocket.set

_DONTWAIT = int(zmq.DONTWAIT)
_SNDMORE = int(zmq.SNDMORE | zmq.DONTWAIT)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_RCVTIMEO = int(zmq.RCVTIMEO)

BLOCKING_SECONDS = 0.1
"""How long `Socket.receive_blocking` blocks."""

_INT_MAX = 2**31 - 1
_UMASK = new_lock()  # who changes it for a moment has this: two threads would leave that of each other
_TRANSIENT = (errno.ENOMEM, errno.ENOBUFS, errno.EMFILE, errno.ENFILE, errno.EINTR)
_PARTICIPLES = {"unbind from": "bound to", "disconnect from": "connected to"}
_TIMEOUT_OPTIONS = ("rcvtimeo", "sndtimeo")
_BEGINNING_TYPES = ("sub", "xsub", "router")  # which begin to read a message when they are asked if there is one
_DEAF_PEERS = 10_000  # peers that are remembered for not reading; they may be gone for good
# Of these, libzmq says that they are writable although a message has to wait: for its peer, or, with xpub_nodrop, for
# one of the subscribers.
_PAUSING_TYPES = (*ROUTING_TYPES, "pub", "xpub")
_SLOW_PEER_PAUSE = 0.02  # seconds; the longest pause between two tries to send to such a peer at its high-water mark


class Sender(Protocol):
    """The sending half of a socket, over `send_frames`. A handler's reply socket is one too."""

    def send_frames(self, frames: Sequence[Any], timeout: float | None = None) -> None:
        """Send one multipart message of these frames (bytes, or anything with the buffer protocol)."""

    def send_envelope(self, envelope: Envelope | ReceivedData, timeout: float | None = None) -> None:
        """Send an `Envelope`, or the one in what a handler received.

        `timeout` is in seconds, None for as long as it takes. Raises `SendTimeout`, and then nothing was sent.
        """
        if isinstance(envelope, ReceivedData):
            envelope = envelope.envelope
        elif not isinstance(envelope, Envelope):
            raise TypeError(f"expected an Envelope or what a handler received, got {envelope!r}")
        self.send_frames(envelope._frames, timeout)

    def send_text(self, text: str, id: str = "", timeout: float | None = None) -> None:
        """Send `text` as an envelope of `text/plain` with this id."""
        self.send_envelope(Envelope(id, TEXT_MIMETYPE, text), timeout)

    def send_obj(self, obj: Any, id: str = "", timeout: float | None = None, mimetype: str = JSON_MIMETYPE) -> None:
        """Send an object as an envelope of JSON with this id; or of msgpack, with the mimetype `application/msgpack`.

        The object has a method `serialize()` that returns data, or is something that msgspec can encode: a Struct, a
        dataclass, dicts, lists and so on. Raises `TypeError` for anything else, before anything is sent.
        """
        self.send_envelope(Envelope(id, mimetype, encode_object(obj, mimetype)), timeout)

    def send_json(self, data: Any, id: str = "", timeout: float | None = None) -> None:
        """Send data as an envelope of `application/json`: the same as `send_obj`, named for what goes out."""
        self.send_obj(data, id, timeout)


class Socket(Sender):
    """A ZeroMQ socket that sends and receives envelopes.

    It wraps a socket of `zmq.green`, and then only the calling greenlet waits, or one of a plain `zmq.Context`, and
    then the thread does. Many greenlets may use one green socket: messages are never interleaved, and whoever waits
    queues.

    Every send and receive takes `timeout`, in seconds; None is what `set_option("rcvtimeo" / "sndtimeo", ...)` says,
    which is for ever unless set. 0 does not wait at all.

    `sent` and `received` count messages, `bytes_sent` and `bytes_received` their last frames, the bodies, and `dropped`
    those that are known to be lost: on a ROUTER what was for a peer that is gone, and on publishers what `count_drops`
    says.
    """

    def __init__(self, zmq_socket: zmq.Socket[bytes], zmq_context: Context | zmq.Context[Any]) -> None:
        self._zmq_socket = zmq_socket
        self._context = _context_of(zmq_context)
        self._waiter = waiter_for(zmq_socket)
        self._type = socket_type_name(zmq_socket.type)
        self._read = reader_for(self._type)
        self._pack: Callable[[Sequence[Any]], Sequence[Any]] | None = None  # makes other frames of those of a message
        # Where it is our turn to send, reading raises that, and nothing ever comes.
        self._input_events = _POLLIN | _POLLOUT if self._type in TURN_TYPES else _POLLIN
        self._timeouts = {"rcvtimeo": -1, "sndtimeo": -1}  # milliseconds; zmq.green ignores libzmq's own
        self._receive_timeout: float | None = None
        self._send_timeout: float | None = None
        self._next: list[Any] | None = None  # a message that was read to see whether there is one
        self._endpoints: list[str] = []
        self._resolved: dict[str, str] = {}  # what was given to bind -> its endpoint, wildcards and names resolved
        self._ipc_locks: dict[str, IpcLock] = {}
        self._owns_context = False
        self._is_raw = self._type == "stream"  # it speaks plain TCP
        self._bound_by: Credentials | None = None  # the credentials of the first bind
        self._deaf: set[bytes] = set()  # the peers of a ROUTER that let a message wait in vain, and read nothing since
        self._counts_drops = False
        self._blocks_briefly = False
        self._max_frames = self._most_frames = MAX_FRAMES
        self.credentials: Credentials | None = None  # what later binds and connects are secured by
        self.name = ""  # what the log calls it
        self.guard: Guard | None = None  # of a bound socket that does not let everybody in
        self.connections: Connections | None = None  # where somebody counts them, see `count_connections`
        self.connection_count: Any = None  # who does, by a monitor
        self.closes_itself = False  # in its time, which is after that of a context that goes on
        self.subscribed = False  # whether a subscription was ever made
        self.sent = 0
        self.bytes_sent = 0
        self.received = 0
        self.bytes_received = 0
        self.dropped = 0
        self._context._add(self)

    # Making one ----------------------------------------------------------------------------------------------

    @classmethod
    def new(
        cls, socket_type: str, context: Context | zmq.Context[Any] | str | None = None, options: Options | None = None
    ) -> Socket:
        """A new socket of this type, by lowercase name.

        Without a context it makes one of its own, which is closed with it; one of pyzmq's is wrapped. Given an endpoint
        in place of the context it connects to it: `Socket.new('req', 'tcp://127.0.0.1:5000')`.
        """
        if isinstance(context, str):
            return cls.connect_new(socket_type, context, options)
        if isinstance(context, zmq.Context):
            context = _context_of(context)
        if context is not None:
            return context.socket(socket_type, options)
        from .context import Context

        own = Context.new()
        try:
            socket = own.socket(socket_type, options)
        except BaseException:
            own.close()
            raise
        socket._owns_context = True
        return socket

    @classmethod
    def bind_new(
        cls, socket_type: str, uri: str, options: Options | None = None, context: Context | None = None
    ) -> Socket:
        """A new socket, bound to `uri`. The options are set before that."""
        return cls._new_at(socket_type, uri, options, context, cls.bind)

    @classmethod
    def connect_new(
        cls, socket_type: str, uri: str, options: Options | None = None, context: Context | None = None
    ) -> Socket:
        """A new socket, connected to `uri`. The options are set before that."""
        return cls._new_at(socket_type, uri, options, context, cls.connect)

    @classmethod
    def _new_at(
        cls,
        socket_type: str,
        uri: str,
        options: Options | None,
        context: Context | None,
        attach: Callable[[Socket, str], None],
    ) -> Socket:
        socket = cls.new(socket_type, context, options)
        try:
            attach(socket, uri)
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    # What it is ----------------------------------------------------------------------------------------------

    @property
    def zmq_socket(self) -> zmq.Socket[bytes]:
        """The underlying socket. Calls on it may take away an event that a greenlet waits for in this wrapper."""
        self._waiter.shared = True
        return self._zmq_socket

    @property
    def context(self) -> Context:
        """The context that the socket belongs to."""
        return self._context

    @property
    def zmq_context(self) -> Context:
        """The same as `context`, by its older name."""
        return self._context

    @property
    def socket_type(self) -> str:
        """The socket type by lowercase name."""
        return self._type

    @property
    def green(self) -> bool:
        """Whether waiting switches to other greenlets instead of blocking the thread."""
        return isinstance(self._zmq_socket, zmq.green.Socket)

    @property
    def closed(self) -> bool:
        """Whether the socket was closed."""
        return bool(self._zmq_socket.closed)

    @property
    def endpoints(self) -> list[str]:
        """What it is bound and connected to, wildcards resolved, in the order of the calls."""
        return list(self._endpoints)

    @property
    def endpoint(self) -> str:
        """What it was bound or connected to last, wildcards resolved; '' before the first time."""
        return self._endpoints[-1] if self._endpoints else ""

    @property
    def max_frames(self) -> int:
        """How many frames a message that is received may have: `MAX_FRAMES`, or less, but not less than 3.

        What a ROUTER finds in front of every request does not count: the routing id, and the delimiter of a REQ. To set
        it raises `ValueError` for another number.
        """
        return self._max_frames

    @max_frames.setter
    def max_frames(self, count: int) -> None:
        if not 3 <= count <= MAX_FRAMES:
            raise ValueError(f"max_frames is a number from 3 to {MAX_FRAMES}, not {count!r}")
        self._max_frames = count
        self._most_frames = min(count + 2, MAX_FRAMES) if self._type == "router" else count

    def __repr__(self) -> str:
        state = "closed" if self.closed else ", ".join(self._endpoints) or "not attached"
        return f"<Socket {self._type} {state}>"

    # Options -------------------------------------------------------------------------------------------------

    def set_option(self, option: str, value: Any) -> None:
        """Set a socket option by its lowercase name. Most have an effect on later binds and connects only.

        Raises `UnknownOption` when there is no such option, or it does not take this value.
        """
        wire_value = option_value(option, value)
        name = option.lower()
        if name in _TIMEOUT_OPTIONS:
            self._set_timeout(name, int(wire_value))
            return
        self.subscribed |= name == "subscribe"
        if name == "router_raw":
            self._is_raw = bool(wire_value)
        if name == "xpub_nodrop":
            self._counts_drops = False
        try:
            if name == "hwm":
                self._zmq_socket.set_hwm(int(wire_value))  # sndhwm and rcvhwm; libzmq has no such option
            else:
                self._zmq_socket.set(option_constant(option), wire_value)
        except zmq.ZMQError as error:
            raise self._option_error(error, option, f", or does not take {shown(option, value)}") from error
        except OverflowError as error:
            raise UnknownOption(f"option {option} does not take {shown(option, value)}: {error}", self) from error

    def get_option(self, option: str) -> Any:
        """The value of a socket option by its lowercase name, int or bytes. Raises `UnknownOption`."""
        constant = option_constant(option)
        name = option.lower()
        if name in _TIMEOUT_OPTIONS:
            return self._timeouts[name]
        try:
            return self._zmq_socket.get_hwm() if name == "hwm" else self._zmq_socket.get(constant)
        except zmq.ZMQError as error:
            raise self._option_error(error, option, ", or cannot be read") from error

    def subscribe(self, topic: str | bytes = "") -> None:
        """Receive envelopes whose id begins with `topic` ('' for all). Only for SUB sockets."""
        self.set_option("subscribe", topic)
        self._waiter.wake()

    def unsubscribe(self, topic: str | bytes = "") -> None:
        """Take back one `subscribe` of the same topic."""
        self.set_option("unsubscribe", topic)
        self._waiter.wake()

    def count_drops(self) -> None:
        """Count in `dropped` when a subscriber loses messages. Only for PUB and XPUB sockets, which never wait then.

        They send to all who have room, and drop what is for the others, as ever. libzmq says so only of the first
        message that it drops for a subscriber: it then drops what is for that one until it has read half of its queue.
        So each loss counts as one, however long it is. The option `xpub_nodrop` is used for this; who sets it ends it.
        Raises `UnknownOption` for sockets of other types.
        """
        self.set_option("xpub_nodrop", True)
        self._counts_drops = True

    def _set_timeout(self, name: str, milliseconds: int) -> None:
        self._timeouts[name] = milliseconds
        seconds = None if milliseconds < 0 else milliseconds / 1000
        if name == "rcvtimeo":
            self._receive_timeout = seconds
        else:
            self._send_timeout = seconds

    # Endpoints -----------------------------------------------------------------------------------------------

    def bind(self, uri: str, descriptor: int | None = None) -> None:
        """Bind to an endpoint. With a wildcard (`tcp://127.0.0.1:*`, `ipc://*`) see `endpoint` for what it became.

        An ipc file is for its owner alone, unless the credentials say otherwise. `descriptor` is of a socket that
        listens there already, in this process or others too; it stays as it is. Raises `AddressInUse` or
        `EndpointError`; `SecurityError` when the socket's credentials are not for this.
        """
        if descriptor is not None:
            self._bind_listening(uri, descriptor)
            return
        if _is_for_others(uri):
            self._guard(uri)
        path = lockable_path(uri)
        lock = None if path is None else self._lock(uri, path)
        try:
            with self._file_permissions(uri), self._handshake_time(uri):
                self._attach("bind to", self._zmq_socket.bind, uri)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        self._bound_to(uri)
        if lock is not None:
            lock.bound()
            self._ipc_locks[self._endpoints[-1]] = lock

    def _bind_listening(self, uri: str, descriptor: int) -> None:
        """Bind to an endpoint at which a socket listens already: its file, if it has one, is somebody else's."""
        if _is_for_others(uri):
            self._guard(uri)
        duplicate = os.dup(descriptor)  # which libzmq closes
        os.set_blocking(duplicate, False)  # which it does not do: whom another process accepts, we would wait for
        try:
            self.set_option("use_fd", duplicate)
            with self._handshake_time(uri):
                self._attach("bind to", self._zmq_socket.bind, uri)
        except BaseException:
            os.close(duplicate)
            raise
        finally:
            self.set_option("use_fd", -1)
        self._bound_to(uri)

    def bind_to_random(
        self, uri: str, min_port: int | None = None, max_port: int | None = None, max_tries: int | None = None
    ) -> int:
        """Bind to a free port of `uri` (`tcp://127.0.0.1`) and return it.

        Without a range the kernel picks one. With one, `max_tries` (100) ports of `min_port` (49152) up to and without
        `max_port` (65536) are tried. Raises `AddressInUse` when none of them is free, `EndpointError` for a `uri`
        that is not of tcp or a range without a port.
        """
        if not uri.startswith("tcp://"):
            raise EndpointError(f"cannot bind to a random port of {uri}: only tcp:// endpoints have ports")
        if min_port is None and max_port is None:
            self.bind(f"{uri}:*")
            return int(self.endpoint.rpartition(":")[2])
        self._guard(uri)
        first, end = min_port or 49152, max_port or 65536
        if first >= end:
            raise EndpointError(f"cannot bind to a random port of {uri}: no port from {first} up to and without {end}")
        try:
            port = self._zmq_socket.bind_to_random_port(uri, first, end, max_tries or 100)
        except zmq.ZMQBindError as error:
            raise AddressInUse(
                f"cannot bind to {uri}: none of the ports tried, {first} to {end - 1}, is free"
            ) from error
        except zmq.ZMQError as error:
            raise self._endpoint_error(error, "bind to", uri) from error
        finally:
            self._waiter.wake()
        self._bound_to(f"{uri}:{port}")
        return port

    def connect(self, uri: str) -> None:
        """Connect to an endpoint. The peer need not be there yet.

        Raises `EndpointError`; `SecurityError` when the socket's credentials are not for this.
        """
        if self.guard is not None and _is_for_others(uri) and self._is_bound_for_others():
            raise SecurityError(
                f"cannot connect to {uri}: {self!r} is bound, and knows who comes in there; of who is here nobody "
                "knows who he is; use another socket"
            )
        if self.credentials is not None and _is_for_others(uri):
            self._check_security("connect to", self.credentials, uri)
            self._secure(self.credentials.connect_options())
        self._attach("connect to", self._zmq_socket.connect, uri)
        self._endpoints.append(uri)

    def unbind(self, uri: str | None = None) -> None:
        """Stop being bound to an endpoint (the last one). Raises `EndpointError` if it is not bound to it."""
        uri = uri or self.endpoint
        endpoint = self._resolved.get(uri, uri)
        if endpoint not in self._resolved.values() and not self.closed:  # libzmq would disconnect it
            raise EndpointError(f"cannot unbind from {uri}: the socket is not bound to it", self)
        self._attach("unbind from", self._zmq_socket.unbind, endpoint)
        self._resolved = {given: bound for given, bound in self._resolved.items() if bound != endpoint}
        self._forget(endpoint)
        self._release_ipc(endpoint)

    def disconnect(self, uri: str | None = None) -> None:
        """Stop being connected to an endpoint (the last one). Raises `EndpointError` if it is not connected to it."""
        uri = uri or self.endpoint
        if uri in self._resolved.values():  # libzmq would unbind it
            raise EndpointError(f"cannot disconnect from {uri}: the socket is bound to it", self)
        if self._type in _BEGINNING_TYPES:
            self._finish_message()
        self._attach("disconnect from", self._zmq_socket.disconnect, uri)
        self._forget(uri)

    def _guard(self, uri: str) -> None:
        """Let in only those whom the credentials let in, if there are any."""
        credentials = self.credentials
        if credentials is not self._bound_by and (self.guard is not None or self._is_bound_for_others()):
            raise SecurityError(
                f"cannot bind to {uri}: {self!r} is bound with other credentials, and who comes in there could say "
                "that he is somebody who comes in here; use another socket"
            )
        self._bound_by = credentials
        if credentials is None:
            return
        self._check_security("bind to", credentials, uri)
        options = credentials.bind_options()
        rosters = self._context.authenticator.rosters if self.green else None
        if self.guard is None and (gate := credentials.gate(rosters)) is not None:
            if any(_is_for_others(one) for one in self._endpoints if one not in self._resolved.values()):
                raise SecurityError(
                    f"cannot bind to {uri}: {self!r} is connected, and of who is there nobody knows who he is; use "
                    "another socket"
                )
            if not self.green:
                raise SecurityError(f"{self!r} blocks its thread, and cannot look at who connects; use Context.new()")
            self.guard = self._context.authenticator.guard(self, gate)
            if self.connections is not None:
                self.connections = self.guard.connections
            self._read = knowing_reader_for(self._type)
        if self.guard is not None:
            # Without the second one, libzmq would let everybody in whenever nobody answers.
            options += [("zap_domain", self.guard.domain), ("zap_enforce_domain", 1)]
        self._secure(options)

    @contextlib.contextmanager
    def _file_permissions(self, uri: str) -> Iterator[None]:
        """Let the file of an ipc endpoint have no more than its permissions at any time, and then just these.

        What other threads make meanwhile has no more than it would have, either. Theirs is the same umask.
        """
        path = lockable_path(uri)
        if path is None:  # no file, or one in a directory of libzmq's own
            yield
            return
        permissions = IPC_PERMISSIONS if self.credentials is None else self.credentials.ipc_permissions
        with _UMASK:
            before = os.umask(0o177)  # to know it, one has to set it
            os.umask(before | 0o777 & ~permissions)
            try:
                yield
            finally:
                os.umask(before)
        if permissions & before:
            os.chmod(path, permissions)

    def _finish_message(self) -> None:
        """Read the message that libzmq has begun to read by itself, if there is one.

        Without the connection it would put the rest of the next message behind it, or end the process (`fq.cpp`). Of
        the others, all are lost that were not read; so is this one, where one was read ahead before.
        """
        with contextlib.suppress(zmq.ZMQError):
            frames = self._read(self._zmq_socket)
            if self._next is None:
                self._next = frames

    @contextlib.contextmanager
    def _handshake_time(self, uri: str) -> Iterator[None]:
        """Leave it to the guard to end handshakes that take too long, where it can: what libzmq does for that is slow.

        It looks through the timers of all connections whenever one of them goes or has shaken hands
        (poller_base_t::cancel_timer): with 10,000 that have not, its thread can do 1,000 of these a second.
        """
        if self.guard is None or not self.guard.ends_handshakes or not uri.startswith("tcp:"):
            yield
            return
        before = self.get_option("handshake_ivl")
        self.set_option("handshake_ivl", 0)
        try:
            yield
        finally:
            self.set_option("handshake_ivl", before)

    def _is_bound_for_others(self) -> bool:
        return any(map(_is_for_others, self._resolved.values()))

    def _check_security(self, verb: str, credentials: Credentials, uri: str) -> None:
        if self._is_raw and (flaw := credentials.flaw_of_raw):
            raise SecurityError(f"cannot {verb} {uri}: {flaw}")
        if flaw := credentials.flaw_of(uri):
            raise InsecureEndpoint(f"cannot {verb} {uri}: {flaw}", self)

    def _secure(self, options: Options) -> None:
        """Set what the credentials say for an endpoint. Each has the options that were set when it was attached."""
        for name, value in option_pairs(options):
            self.set_option(name, value)

    def _attach(self, verb: str, call: Callable[[str], Any], uri: str) -> None:
        try:
            call(uri)
        except zmq.ZMQError as error:
            raise self._endpoint_error(error, verb, uri) from error
        finally:
            if not self.closed:
                self._waiter.wake()  # these calls process commands too

    def _bound_to(self, uri: str) -> None:
        """Take note of what the socket was just bound to, as libzmq calls it: `0.0.0.0` for `*`."""
        self._endpoints.append(self._zmq_socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())  # type: ignore[union-attr]
        self._resolved[uri] = self._endpoints[-1]

    def _forget(self, uri: str) -> None:
        if uri in self._endpoints:
            self._endpoints.remove(uri)

    def _lock(self, uri: str, path: str) -> IpcLock:
        try:
            lock = IpcLock(path)
        except BlockingIOError as error:
            raise AddressInUse(_in_use(uri)) from error
        except OSError as error:
            raise EndpointError(f"cannot bind to {uri}: {error.strerror} ({path}.lock)") from error
        if is_no_socket(path):
            lock.release()
            raise EndpointError(f"cannot bind to {uri}: {path} exists, and is no socket", self)
        return lock

    def _release_ipc(self, uri: str) -> None:
        lock = self._ipc_locks.pop(uri, None)
        if lock is not None:
            lock.release()

    # Sending -------------------------------------------------------------------------------------------------

    def send_frames(self, frames: Sequence[Any], timeout: float | None = None) -> None:
        """Send one multipart message of these frames: bytes, or anything with the buffer protocol.

        `timeout` is in seconds. Raises `SendTimeout`, `SocketStateError`, `Unroutable`, `TransientError` or
        `SocketClosed`; and `TypeError` for a frame of another type. In every case nothing of the message was sent.
        """
        for frame in frames:  # one that cannot be sent must be known before the first one is
            if type(frame) is not bytes and not memoryview(frame).c_contiguous:
                raise TypeError(f"a frame must be contiguous in memory, and {frame!r} is not")
        if not frames:
            raise TypeError("a message needs at least one frame")
        size = len(frames[-1])
        if self._pack is not None:
            frames = self._pack(frames)
        waiter = self._waiter
        try:
            if size >= LARGE and type(frames[-1]) is bytes:
                # There may be no memory for it, which must not show when the frames before it are sent.
                frames = [*frames[:-1], zmq.Frame(frames[-1], copy=True)]
            if waiter.sending or not self._send_now(frames):
                self._send_when_possible(frames, timeout)
        except zmq.ZMQError as error:
            translated = self._translated(error, "send")
            translated.peer = self._peer_of(frames)
            self.dropped += isinstance(translated, Unroutable)
            raise translated from error
        finally:
            if waiter.receiving or waiter.sending:
                waiter.wake()
        if self._deaf:
            self._deaf.discard(bytes(frames[0]))
        self.sent += 1
        self.bytes_sent += size

    def send_at_once(self, frames: Sequence[Any]) -> bool:
        """Send a message that can be sent without waiting; False, and nothing of it was sent, when it would have to.

        For who passes on what was received, bytes and `zmq.Frame` objects: nothing is checked. Raises what
        `send_frames` raises. Whoever has set a function with `call_back` calls `look` afterwards.
        """
        try:
            if not self._send_now(frames):
                return False
        except zmq.ZMQError as error:
            translated = self._translated(error, "send")
            self.dropped += isinstance(translated, Unroutable)
            raise translated from error
        self.sent += 1
        self.bytes_sent += len(frames[-1])
        return True

    def _send_now(self, frames: Sequence[Any]) -> bool:
        """Send the message, or nothing of it: False when it would have to wait."""
        last = len(frames) - 1
        zmq_socket = self._zmq_socket
        index = 0
        try:
            for index in range(last):
                _send(zmq_socket, frames[index], _SNDMORE)
            index = last
            _send(zmq_socket, frames[last], _DONTWAIT)
        except zmq.Again:
            # In the middle of a message this means that the peer's pipe went away and took the frames sent before.
            return index > 0 and self._send_again(frames, index)
        return True

    def _send_again(self, frames: Sequence[Any], lost_at: int) -> bool:
        """Send a message, whose peer went away after `lost_at` frames, to another peer."""
        last = len(frames) - 1
        if lost_at < last and self._type != "pair":
            # libzmq swallows the rest of the message, which must still be offered (lb_t::sendpipe, "dropping").
            for frame in frames[lost_at + 1 : last]:
                _send(self._zmq_socket, frame, _SNDMORE)
            _send(self._zmq_socket, frames[last], _DONTWAIT)
        # To a REQ that was its request: it is lost, as with a peer that goes away a moment later.
        return self._type == "req" or self._send_now(frames)

    def _send_when_possible(self, frames: Sequence[Any], timeout: float | None) -> None:
        if self._counts_drops:
            self._send_to_who_has_room(frames)
            return
        patience = self._send_timeout if timeout is None else timeout
        peer = self._peer_of(frames)
        if timeout is None and peer in self._deaf:
            patience = 0
        try:
            if patience is not None and patience <= 0:
                raise TimeIsUp
            if self._type in _PAUSING_TYPES:
                self._send_to_slow_peer(frames, patience)
            else:
                self._waiter.send(lambda: self._send_now(frames), patience)
        except TimeIsUp:
            if timeout is None and peer is not None:
                self._remember_as_deaf(peer)
            raise SendTimeout(
                f"nothing could be sent on {self!r} within {patience} s: it has no peer, or its peers' queues are full",
                self,
                peer,
            ) from None

    def _peer_of(self, frames: Sequence[Any]) -> bytes | None:
        return bytes(frames[0]) if self._type in ROUTING_TYPES else None

    def _remember_as_deaf(self, peer: bytes) -> None:
        """Let nothing wait for this peer until it has read something: one that never reads would hold up the others."""
        if len(self._deaf) >= _DEAF_PEERS:
            self._deaf.clear()
        self._deaf.add(peer)

    def _send_to_slow_peer(self, frames: Sequence[Any], timeout: float | None) -> None:
        """Try again and again: nothing says when one peer's queue has room, and other peers must not wait for it."""
        expires = math.inf if timeout is None else time.monotonic() + timeout
        pause = 0.001
        while not self._send_now(frames):
            left = expires - time.monotonic()
            if left <= 0:
                raise TimeIsUp
            self._waiter.wake()
            (gevent.sleep if self.green else time.sleep)(min(pause, left))
            pause = min(2 * pause, _SLOW_PEER_PAUSE)

    def _send_to_who_has_room(self, frames: Sequence[Any]) -> None:
        """Send a message, and drop it for subscribers whose queues are full: with `xpub_nodrop`, nobody has it yet."""
        _get(self._zmq_socket, _EVENTS)  # libzmq looks only now and then whether the subscribers have read something
        if self._send_now(frames):
            return
        self._zmq_socket.set(zmq.XPUB_NODROP, 0)
        try:
            self._send_now(frames)
        finally:
            self._zmq_socket.set(zmq.XPUB_NODROP, 1)
        self.dropped += 1

    # Receiving -----------------------------------------------------------------------------------------------

    def readable(self, likely: bool = True) -> bool:
        """Whether there is a message to receive now.

        `likely` is whether there should be one, and changes only what the answer costs: it is found out by reading,
        which is for nothing when there is one (and then read ahead), and takes 3 us when there is none; or by asking
        first, which always takes 0.8 us.
        """
        if self._next is not None:
            return True
        try:
            if likely or _get(self._zmq_socket, _EVENTS) & self._input_events:
                self._next = self._read(self._zmq_socket)
        except zmq.Again:
            pass
        except zmq.ZMQError as error:
            raise self._translated(error, "receive") from error
        waiter = self._waiter
        if waiter.receiving or waiter.sending:
            waiter.wake()
        return self._next is not None

    def has_input(self) -> bool:
        """Whether there is a message, which is not read: somebody may be waiting for it."""
        try:
            there = self._next is not None or bool(_get(self._zmq_socket, _EVENTS) & self._input_events)
        except zmq.ZMQError as error:
            raise self._translated(error, "receive") from error
        if there:
            self._waiter.wake()  # whose event this look may have taken away
        return there

    def wait_readable(self, timeout: float | None = None) -> bool:
        """Wait until there is a message to receive; False when `timeout` seconds passed first."""
        if self._next is None and (self._waiter.receiving or not self.readable()):
            try:
                self._wait_for_input(timeout)
            except ReceiveTimeout:
                return False
        return True

    def _wait_for_input(self, timeout: float | None = None) -> None:
        """Wait for a message, where `readable` has just said that there is none. Raises `ReceiveTimeout`."""
        if timeout is None:
            timeout = self._receive_timeout
        try:
            if timeout is not None and timeout <= 0:
                raise TimeIsUp
            self._waiter.receive(self.readable, timeout)
        except TimeIsUp:
            raise ReceiveTimeout(f"no message arrived on {self!r} within {timeout} s") from None

    def call_back(self, function: Callable[[], None]) -> None:
        """Call a function in the hub whenever there may be a message, from now on until the socket is closed.

        For who cannot afford a greenlet that waits. It must read until the socket is not `readable`, or come back by
        itself; it must not wait, nor raise. Nobody else may receive then, and who sends calls `look` afterwards. Raises
        `TypeError` for a socket that blocks.
        """
        if not isinstance(self._waiter, GreenWaiter):
            raise TypeError(f"there is no hub to call back from: {self!r} blocks its thread; use Context.new()")
        self._waiter.call_back(function)

    def receive_blocking(self) -> list[Any] | None:
        """Receive as `receive_frames(copy=False)` does, and block the thread meanwhile, the hub and all its greenlets.

        For who knows that none of them has anything to do. None when nothing came for `BLOCKING_SECONDS`.
        """
        if self._next is None:
            if not self._blocks_briefly:
                _set(self._zmq_socket, _RCVTIMEO, int(BLOCKING_SECONDS * 1000))
                self._blocks_briefly = True
            try:
                self._next = self._read(self._zmq_socket, 0)
            except zmq.Again:
                return None
            except zmq.ZMQError as error:
                raise self._translated(error, "receive") from error
        return self.receive_frames(copy=False)

    def look(self) -> None:
        """Let the function of `call_back` be called, as soon as the hub runs, if there is a message.

        To send may take away the event that would have told the hub of it.
        """
        self._waiter.wake()

    def receive_frames(self, timeout: float | None = None, copy: bool = True) -> list[bytes]:
        """Receive one multipart message as the list of its frames. Raises `ReceiveTimeout` or `SocketClosed`.

        Without `copy`, the last frame is a `zmq.Frame` if it has 64 KiB or more: it can be sent on without ever being
        copied, and has `bytes`. Raises `MalformedEnvelope` when it has more frames than `max_frames`.
        """
        frames = self._next
        if frames is None:
            if self._waiter.receiving or not self.readable():
                self._wait_for_input(timeout)
            frames = self._next
            assert frames is not None
        self._next = None
        self.received += 1
        self.bytes_received += len(frames[-1])
        if len(frames) > self._most_frames:
            raise MalformedEnvelope(f"more than the {self._max_frames} frames that are taken", frames)
        if copy and type(frames[-1]) is not bytes:
            frames[-1] = frames[-1].bytes
        return frames

    def receive_envelope(self, timeout: float | None = None) -> Envelope:
        """Receive an `Envelope`. Raises `ReceiveTimeout`, or `MalformedEnvelope`, which carries the frames."""
        return adopt(self.receive_frames(timeout, copy=False))

    def receive_text(self, timeout: float | None = None) -> str:
        """Receive an envelope of `text/plain` as str. Raises `UnexpectedMimetype` for another one."""
        return decode_text(self.receive_envelope(timeout))

    def receive_json(self, timeout: float | None = None) -> Any:
        """Receive an envelope of JSON (or msgpack) as data. Raises `UnexpectedMimetype` or `UndecodableData`."""
        return decode_data(self.receive_envelope(timeout))

    def receive_obj(self, handler: Any, timeout: float | None = None) -> Any:
        """Receive an envelope of JSON (or msgpack) as the object that `handler` makes of its data.

        `handler` is a callable that takes the data, anything with a method `deserialize(data)`, or a msgspec Struct or
        dataclass type. Raises `InvalidData` when the data is not such an object.
        """
        return decode_object(self.receive_envelope(timeout), handler)

    # The end -------------------------------------------------------------------------------------------------

    def close(self, linger: float | None = None) -> None:
        """Close the socket. What is queued is still sent for `linger` seconds; None is what the option says.

        `math.inf` is as long as it takes, and so is what is less than 0, as in the option.

        Who waits in it gets `SocketClosed`. Closing it again does nothing.
        """
        if self._type == "sub":
            linger = 0  # all that a SUB can have queued are subscriptions to a peer that is not there
        if self.connection_count is not None:
            self.connection_count.close()
        if not self.closed:
            milliseconds = None if linger is None else _linger_value(linger)
            self._free_inproc_names()
            self._zmq_socket.close(milliseconds)
        self._context._remove(self)
        self._next = None
        for uri in list(self._ipc_locks):
            self._release_ipc(uri)
        if self.guard is not None:
            self._context.authenticator.release(self.guard)
        if self._owns_context:
            self._context.close()

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _free_inproc_names(self) -> None:
        """Let others bind to them at once: libzmq frees those of a closed socket when it reaps it, some time later."""
        for endpoint in self._resolved.values():
            if endpoint.startswith("inproc://"):
                with contextlib.suppress(zmq.ZMQError):  # the context was terminated
                    self._zmq_socket.unbind(endpoint)

    def _translated(self, error: zmq.ZMQError, action: str) -> TransportError:
        """The exception of ours for one of pyzmq's."""
        if self._is_over(error):
            return SocketClosed(f"cannot {action}: the {self._type} socket, or its context, was closed")
        if error.errno == zmq.EFSM:
            other = "receive" if action == "send" else "send"
            return SocketStateError(f"cannot {action} on {self!r} now: a {self._type} socket must {other} first")
        if error.errno == zmq.ENOTSUP:
            return SocketStateError(f"cannot {action} on {self!r}: {self._type} sockets do not {action}")
        if error.errno == zmq.EHOSTUNREACH and action == "send":
            return Unroutable(
                f"cannot send on {self!r}: the caller is gone (no peer has the routing id in the first frame)", self
            )
        kind = TransientError if error.errno in _TRANSIENT else TransportError
        return kind(f"cannot {action} on {self!r}: {error.strerror}", self)

    def _endpoint_error(self, error: zmq.ZMQError, verb: str, uri: str) -> TransportError:
        """The exception for an endpoint that cannot be used, and why: in words that stand for themselves."""
        if self._is_over(error):
            return self._translated(error, f"{verb} {uri}")
        if error.errno == zmq.EADDRINUSE:
            return AddressInUse(_in_use(uri), self)
        transport, _, address = uri.partition("://")
        reasons: dict[int | None, str] = {
            errno.EINVAL: "this is not the form of such an endpoint",
            errno.ENODEV: "no such host or network interface",
            zmq.EADDRNOTAVAIL: f"{address.rpartition(':')[0] or address} is no address of this machine",
            zmq.ENOCOMPATPROTO: f"a {self._type} socket does not work over {transport}",
            zmq.EPROTONOSUPPORT: f"this libzmq has no {transport} transport",
            errno.ENAMETOOLONG: f"an ipc path has at most {zmq.IPC_PATH_MAX_LEN} bytes",
        }
        if verb in _PARTICIPLES:
            reasons[errno.ENOENT] = f"the socket is not {_PARTICIPLES[verb]} it"
        # pyzmq appends the endpoint, which is there already.
        reason = reasons.get(error.errno) or str(error.strerror).partition(" (addr=")[0]
        return EndpointError(f"cannot {verb} {uri}: {reason}", self)

    def _option_error(self, error: zmq.ZMQError, option: str, otherwise: str) -> TransportError:
        if self._is_over(error):
            return self._translated(error, f"use option {option}")
        article = "an" if self._type[0] == "x" else "a"
        return UnknownOption(f"option {option} is not one of {article} {self._type} socket{otherwise}", self)

    def _is_over(self, error: zmq.ZMQError) -> bool:
        return self.closed or error.errno in (zmq.ETERM, zmq.ENOTSOCK)


def _context_of(zmq_context: Context | zmq.Context[Any]) -> Context:
    from .context import Context

    return zmq_context if isinstance(zmq_context, Context) else Context(zmq_context)


def _linger_value(seconds: float) -> int:
    """What libzmq wants: milliseconds, and -1 for ever, which is also for what does not fit into an int of C."""
    return int(seconds * 1000) if 0 <= seconds < _INT_MAX / 1000 else -1


def _is_for_others(uri: str) -> bool:
    """Whether others than this process can be at this endpoint."""
    return not uri.startswith("inproc:")


def _in_use(uri: str) -> str:
    return f"{uri} is in use by another socket, of this or another process"
