"""From a message to its handler, and from what the handler does to the reply."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import gevent
from greenlet import getcurrent

from ..errors import (
    DeadlineExceeded,
    Forbidden,
    HandlerEnded,
    HandlerTimeout,
    MalformedEnvelope,
    NoReply,
    Overloaded,
    PeerError,
    SendTimeout,
    ShuttingDown,
    SocketStateError,
    TransientError,
    TransportError,
    Unroutable,
)
from ..handling import HANDLED, Where
from ..statistics import Histogram, LastError, SocketStatistics, Timings
from ..transport import PROBLEM_MIMETYPE, TEXT_MIMETYPE, Envelope, Metadata, Problem, ReceivedData, Sender, Socket
from ..transport.codecs import encode
from ..transport.complaints import Complaints
from ..transport.envelope import adopt
from ..transport.guard import Guard
from ..transport.problems import handler_failed, is_problem, problem_of
from ..transport.receive_loop import RETRY_PAUSE
from .declare import ANSWERING_TYPES, InputHandler, SocketDescription
from .hooks import Hooks
from .timing import TimeLimits

__all__ = [
    "Counts",
    "Dispatcher",
    "PeerDispatcher",
    "RepDispatcher",
    "ReplySocket",
    "dispatcher_class",
    "socket_statistics",
]

log = logging.getLogger(__name__)

_now = time.monotonic
_REJECTED: Final = object()  # what becomes of a message that nobody handles

_TEXT = TEXT_MIMETYPE.encode()
_FAREWELL_PATIENCE = 1.0  # seconds for which the last word to a caller may wait for room in its queue
_LONGEST_MESSAGE = 300  # characters of the message of an error that is kept
_LONGEST_WAIT = 86_400.0  # seconds; peers may say anything, and infinity would be in every sum from then on
_PEER_PATIENCE = 5.0  # seconds for which the reply of a DEALER or PAIR, whose peer may be gone, may wait for one


class Counts:
    """What came of the messages of one socket, in numbers since the start.

    `received` messages, and `handled` ones among them, with which all is done; `replied` ones that were answered by
    return value or by an error reply; `malformed` ones that were no envelope; `refused` bodies that were not what was
    declared; `rejected` ones for which there was no room or no time, since all handlers were busy or the server
    stopped; `failed` handlers; `timed_out` handlers and deadlines; `unanswered` requests that a handler did not answer;
    `undelivered` replies, whose peer was gone or did not read.

    `problems` counts what peers were told of these, by the last part of the type of a problem. `last_error` is what
    went wrong last.
    """

    NUMBERS: Final = (
        "failed",
        "handled",
        "malformed",
        "received",
        "refused",
        "rejected",
        "replied",
        "timed_out",
        "unanswered",
        "undelivered",
    )
    __slots__ = (*NUMBERS, "last_error", "problems")

    def __init__(self) -> None:
        for name in self.NUMBERS:
            setattr(self, name, 0)
        self.problems: Counter[str] = Counter()
        self.last_error: LastError | None = None

    received: int
    handled: int
    replied: int
    malformed: int
    refused: int
    rejected: int
    failed: int
    timed_out: int
    unanswered: int
    undelivered: int

    def note(self, error: BaseException, problem: Problem | None = None) -> None:
        """Take note of what went wrong, and of what the peer is told of it."""
        self.last_error = LastError(time=time.time(), type=type(error).__name__, message=_message_of(error))
        if problem is not None:
            self.problems[problem.type.rpartition(":")[2]] += 1

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)}" for name in self.NUMBERS if getattr(self, name))
        return f"Counts({shown})"


class ReplySocket(Sender):
    """What the handler of a request gets to answer it with: it sends to its own caller, once.

    `socket` is the socket that the request came in on. As with a REP socket, a second reply raises `SocketStateError`.
    """

    __slots__ = ("_route", "sent", "socket")

    def __init__(self, socket: Socket, route: list[bytes]) -> None:
        self.socket = socket
        self.sent = 0
        self._route = route

    def send_frames(self, frames: Sequence[Any], timeout: float | None = None) -> None:
        """Send the reply. Raises what `Socket.send_frames` raises."""
        if self.sent:
            raise SocketStateError("cannot send: this request has been answered already")
        if not frames:
            raise TypeError("a reply needs at least one frame")
        self.sent = 1  # before it waits: meanwhile nobody else may answer
        try:
            self.socket.send_frames([*self._route, *frames], timeout)
        except BaseException:
            self.sent = 0
            raise


class Dispatcher:
    """Takes each message of one listening socket to its handler, and the answer back where there is a way back.

    It is the handler of that socket in a receive loop. `name` says whose it is (`echo.request`), `counts` what came of
    the messages. With `rejects`, messages that come while `concurrency` handlers run are rejected; it has to be called
    for them, too. This class is for sockets on which nothing can be sent back (`pull`, `sub`); its subclasses are for
    the others.
    """

    can_answer = False
    must_answer = False
    until_closed = False
    """Whether messages are handled as ever while the server stops: what comes is the answers that it waits for."""
    _patience: float | None = None  # seconds for which a reply may wait, None for what the socket says

    def __init__(
        self,
        name: str,
        server: Any,
        socket: Socket,
        description: SocketDescription,
        concurrency: int = 1,
        timeout: float | None = None,
        rejects: bool = False,
        hooks: Hooks | None = None,
        timed: bool = False,
    ) -> None:
        self.name = name
        self.socket = socket
        self.concurrency = concurrency
        self._busy = 0  # handlers that run, where some messages are rejected
        self.counts = Counts()
        self._socket_name = description.name
        self._socket_type = description.socket_type
        self._where = Where(server.settings.service, server.name, description.name)
        self._declared = cast(InputHandler, description.input_handler)
        self._server = server
        self._input_handler = self._handler = self._declared
        self._groups = description.groups
        if self._groups is not None:
            self._input_handler = self._handler = self._handle_if_allowed
        elif socket.guard is not None:
            self._input_handler = self._handler = self._handle_if_let_in
        if socket.guard is not None:
            self._open = partial(self._open_knowing, self._open, socket.guard)  # type: ignore[method-assign]
        self._decoder = description.decoder
        self._timeout = timeout
        self._limits = TimeLimits()
        self._hooks = hooks or Hooks()
        self._observed = self._hooks.observe_messages
        if self._observed:
            self._handler = self._announce
        self.handler_time, self.wait_time = Timings(), Timings()
        self._timed = timed
        self._note_time = self.handler_time.note
        self._complaints = Complaints(log, server.spawn)
        self._complain = self._complaints.tell
        # What a message goes through; nobody pays for what was not asked for.
        self._pass: Callable[[Any, ReceivedData], Any] = self._observe if self._observed else self._serve
        if rejects:
            self._pass = partial(self._serve_if_free, self._pass)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @property
    def handler_name(self) -> str:
        """The name of the method or class that handles the messages."""
        return str(getattr(self._declared, "__qualname__", type(self._declared).__qualname__))

    def __call__(self, socket: Socket) -> None:
        """Handle the message that can be received on the socket."""
        counts = self.counts
        counts.received += 1
        try:
            try:
                channel, received = self._open(socket, socket.receive_frames(copy=False))
            except MalformedEnvelope as error:
                self._refuse_malformed(socket, error)
            else:
                metadata = received.metadata
                greenlet: Any = getcurrent()
                greenlet.spawn_tree_locals = {HANDLED: (self._where, metadata)}  # as `begin` does
                if not self._timed:
                    self._pass(channel, received)
                    return
                if metadata is not None and metadata.sent_at is not None:
                    self._note_wait(time.time() - metadata.sent_at)
                began = _now()
                if self._pass(channel, received) is not _REJECTED:
                    self._note_time(_now() - began)
        except gevent.Timeout:
            pass  # of a handler that has returned; all that it can have cut short is a line in the log
        except TransientError as error:  # there was no message after all, as only a PollLoop gets to see it here
            counts.received -= 1
            counts.handled -= 1
            self._complain("unreadable", f"{self.name}: {error}; trying again until it works")
            gevent.sleep(RETRY_PAUSE)
        finally:
            counts.handled += 1

    def _note_wait(self, seconds: float) -> None:
        """Note how long a message has waited, by the clocks of both; unless the peer's cannot be right."""
        if seconds < _LONGEST_WAIT:  # which what is no number is not
            self.wait_time.note(max(0.0, seconds))

    def turn_away(self, socket: Socket) -> None:
        """Receive a message, and tell its sender that the server stops. Never waits."""
        counts = self.counts
        counts.received += 1
        try:
            channel, received = self._open(socket, socket.receive_frames(copy=False))
        except MalformedEnvelope as error:
            self._refuse_malformed(socket, error)
        else:
            self._reject(channel, received, self._shutting_down())
        finally:
            counts.handled += 1

    def statistics(self) -> SocketStatistics:
        """What is known of the socket, at this moment. Any thread may ask."""
        counts = self.counts
        found = socket_statistics(self.socket, self._socket_type)
        for name in counts.NUMBERS:
            setattr(found, name, getattr(counts, name))
        found.concurrency = self.concurrency
        found.problems = dict(counts.problems)
        found.last_error = counts.last_error
        found.handler_time, found.wait_time = self.count_times()
        return found

    def count_times(self) -> tuple[Histogram, Histogram]:
        """How long the handlers took until now, and how long messages had to wait for them."""
        return self.handler_time.count(), self.wait_time.count()

    @property
    def running(self) -> int:
        """How many messages have been received and are not yet done with."""
        return self.counts.received - self.counts.handled

    # How a message comes in and where its answer goes: what the subclasses change -----------------------------

    def _open(self, socket: Socket, frames: list[bytes]) -> tuple[Any, ReceivedData]:
        """What the handler gets: the socket to answer on, and what was received. Raises `MalformedEnvelope`."""
        envelope = adopt(frames)
        received = ReceivedData(envelope, self._decoder, Metadata.find(frames[:-4]) if len(frames) > 4 else None)
        received.deadline = None  # nobody waits for an answer
        return socket, received

    def _open_knowing(
        self, open: Callable[..., tuple[Any, ReceivedData]], guard: Guard, socket: Socket, frames: list[Any]
    ) -> tuple[Any, ReceivedData]:
        """The same, where it is known who sent it."""
        sender = guard.take_sender(frames)
        opened = open(socket, frames)
        opened[1].sender = guard, sender
        return opened

    def _return_path(self, socket: Socket, frames: list[bytes]) -> tuple[Any, list[bytes]]:
        """Where to answer a message that is no envelope: a socket, and request frames."""
        return socket, []

    # What becomes of it ---------------------------------------------------------------------------------------

    def _serve(self, channel: Any, received: ReceivedData) -> BaseException | None:
        """Run the handler, and see to it that a request is answered once, whatever the handler does.

        Returns what went wrong.
        """
        sent_before = channel.sent
        try:
            if self._timeout is None and received.deadline is None:
                result = self._handler(self._server, channel, received)
            else:
                result = self._handle_in_time(channel, received)
            if result is not None:
                if self.must_answer and channel.sent != sent_before:  # as `_answered` says; a call costs every reply
                    raise SocketStateError(
                        "the handler has sent a reply, and then returned another one, which is dropped"
                    )
                self._reply(channel, received.envelope, result)
                return None
            if not self.must_answer or channel.sent != sent_before:
                return None
            error: BaseException = NoReply(f"the handler of {self.name} neither sent a reply nor returned one")
        except gevent.GreenletExit as killed:
            if self._server.stopping:
                self.counts.rejected += 1
                ended = self._ended()
                farewell = problem_of(ended)
                self.counts.note(ended, farewell)
                self._send_problem(channel, received, farewell, sent_before, _FAREWELL_PATIENCE)
                if not self.can_answer:
                    self._complain("ended", f"a handler of {self.name} was ended: the service is shutting down")
                raise
            error = killed  # somebody killed the handler
        except KeyboardInterrupt:  # for whoever runs the program
            self._send_problem(channel, received, handler_failed(self.name), sent_before, 0)
            raise
        except BaseException as raised:  # noqa: BLE001 - a handler may raise anything
            error = raised
        problem, tell = self._failure(error, received)
        self.counts.note(error, problem)
        answered = self._answered(channel, sent_before)
        if not self._decided(channel, received, received.envelope, error, answered):
            self._send_problem(channel, received, problem, sent_before)
            # Last, since a log may make us wait, and there a kill or a timeout of the handler may come.
            with contextlib.suppress(gevent.Timeout):
                tell()
        return error

    def _answered(self, channel: Any, sent_before: int) -> bool:
        """Whether a request was answered since then. Of other messages nobody knows how many answers they want."""
        return self.must_answer and channel.sent != sent_before

    def _shutting_down(self) -> ShuttingDown:
        return ShuttingDown(f"the service of {self.name} is shutting down")

    def _ended(self) -> HandlerEnded:
        return HandlerEnded(f"the service of {self.name} is shutting down, and the handler did not end in time")

    def _observe(self, channel: Any, received: ReceivedData) -> None:
        """Serve, and tell the hooks how that ended."""
        hooks, began = self._hooks, time.monotonic()
        try:
            error = self._serve(channel, received)
        except gevent.GreenletExit:
            self._tell_hooks(received, self._ended(), began)
            raise
        if error is None:
            hooks.call("message_handled", self._server, self._socket_name, received, time.monotonic() - began)
        else:
            self._tell_hooks(received, error, began)

    def _handle_if_let_in(self, server: Any, channel: Any, received: ReceivedData) -> Any:
        """Call the handler, unless who sent the message was put out since: it may have waited for long."""
        guard, sender = received.sender
        if guard.has_put_out(sender):
            received.fault = Forbidden(f"who has sent this to {self.name} may not connect any more")
            raise received.fault
        return self._declared(server, channel, received)

    def _handle_if_allowed(self, server: Any, channel: Any, received: ReceivedData) -> Any:
        """Call the handler, if who sent the message is in one of its groups."""
        peer, groups = received.peer, cast("frozenset[str]", self._groups)
        if peer is None or not groups & peer.groups:
            who = "somebody whom nobody knows" if peer is None else peer.who
            received.fault = Forbidden(f"{self.name} is for {' or '.join(sorted(groups))}, and not for {who}")
            raise received.fault
        return self._handle_if_let_in(server, channel, received)

    def _announce(self, server: Any, channel: Any, received: ReceivedData) -> Any:
        """Tell the hooks, and then call the handler: in its time, and with all that holds for it."""
        timer = (gevent.Timeout,)  # that of the handler
        self._hooks.call("message_received", server, self._socket_name, received, passing=timer)
        return self._input_handler(server, channel, received)

    def _tell_hooks(self, received: ReceivedData | None, error: BaseException, began: float | None = None) -> None:
        """Tell the hooks that a message was not handled."""
        if self._observed:
            seconds = 0.0 if began is None else time.monotonic() - began
            self._hooks.call("message_failed", self._server, self._socket_name, received, error, seconds)

    def _serve_if_free(self, serve: Callable[[Any, ReceivedData], Any], channel: Any, received: ReceivedData) -> object:
        if self._busy < self.concurrency:
            self._busy += 1
            try:
                serve(channel, received)
            finally:
                self._busy -= 1
            return None
        busy = f"all handlers of {self.name} are busy (concurrency: {self.concurrency})"
        self._reject(channel, received, Overloaded(f"{busy}; try again later"))
        self._complain("rejected", f"rejected a message since {busy}")
        return _REJECTED

    def _reject(self, channel: Any, received: ReceivedData, error: Overloaded | ShuttingDown) -> None:
        """Answer a message that is not handled. Never waits."""
        self.counts.rejected += 1
        problem = problem_of(error)
        self.counts.note(error, problem)
        self._send_problem(channel, received, problem, channel.sent, 0)
        if self._observed:  # in a greenlet, since a hook may wait, and the next one is to be told first
            self._server.spawn(self._tell_hooks, received, error)

    def _handle_in_time(self, channel: Any, received: ReceivedData) -> Any:
        """Run the handler for no longer than it may, and than its caller waits."""
        seconds = math.inf if received.deadline is None else received.deadline - time.monotonic()
        in_time = self._timeout is not None and self._timeout < seconds
        if in_time:
            seconds = cast(float, self._timeout)
        if not seconds > 0:  # it may be what is no number
            raise self._exceeded(in_time)
        limit = self._limits.begin(seconds)
        try:
            return self._handler(self._server, channel, received)
        except gevent.Timeout as error:
            if error is limit.timeout:
                raise self._exceeded(in_time) from None
            raise
        finally:
            limit.end()

    def _exceeded(self, in_time: bool) -> HandlerTimeout | DeadlineExceeded:
        if in_time:
            return HandlerTimeout(f"the handler of {self.name} did not finish within {self._timeout:g} s")
        return DeadlineExceeded(f"the deadline that came with the request passed before {self.name} was done")

    def _reply(self, channel: Any, request: Envelope, result: Any) -> None:
        """Send what a handler returned."""
        if not self.can_answer:
            kind = type(result).__name__
            self._complain("unanswerable", f"the handler of {self.name} returned {kind}, but nobody waits for a reply")
            return
        channel.send_frames(_reply_frames(request, result), self._patience)
        self.counts.replied += 1

    # When it was not handled ----------------------------------------------------------------------------------

    def _failure(self, error: BaseException, received: ReceivedData) -> tuple[Problem | None, Callable[[], None]]:
        """Count what went wrong in a handler.

        Returns the problem to tell the caller, if it is still there, and what tells the log.
        """
        if isinstance(error, HandlerTimeout | DeadlineExceeded):
            self.counts.timed_out += 1
            return problem_of(error), partial(self._complain, "timed-out", str(error))
        if isinstance(error, NoReply):
            self.counts.unanswered += 1
            return problem_of(error), partial(self._complain, "unanswered", str(error), logging.ERROR)
        if isinstance(error, PeerError) and error is received.fault:
            self.counts.refused += 1
            return problem_of(error), partial(self._complain, "refused", f"{self.name} refused a message: {error}")
        if isinstance(error, Unroutable | SendTimeout) and self._was_for_caller(error, received):
            self.counts.undelivered += 1
            return None, partial(self._complain, "undelivered", f"a reply of {self.name} was not delivered: {error}")
        self.counts.failed += 1
        return handler_failed(self.name), partial(self._complaints.tell_of, f"the handler of {self.name} failed", error)

    def _was_for_caller(self, error: TransportError, received: ReceivedData) -> bool:
        """Whether what could not be sent was a reply. On a router it may have been for another peer."""
        if error.socket is not self.socket or not self.can_answer:
            return False
        return self.must_answer or error.peer is None or error.peer in received.envelope.request_frames[:1]

    def _decided(
        self, channel: Any, received: ReceivedData | None, request: Envelope, error: BaseException, answered: bool
    ) -> bool:
        """Let the server decide what to do about an error. False when it did nothing about it, or failed too."""
        sent = channel.sent
        try:
            with gevent.Timeout(self._seconds_for(received)):
                result = self._server.on_error(channel, received, error)
            sent_itself = self._answered(channel, sent)
            if result is not None and self.can_answer and not (answered or sent_itself):
                self._reply(channel, request, result)
            return result is not None or sent_itself
        except KeyboardInterrupt:  # for whoever runs the program
            raise
        except BaseException as failure:  # noqa: BLE001 - it may raise anything
            what = f"on_error of server {self._server.name} failed for a message of {self.name}"
            self._complaints.tell_of(what, failure)
        return False

    def _seconds_for(self, received: ReceivedData | None) -> float | None:
        """How long `on_error` may take: as long as the handler might, and its caller still waits."""
        left = math.nan if received is None or received.deadline is None else received.deadline - time.monotonic()
        if not 0 < left < math.inf:
            return self._timeout
        return left if self._timeout is None else min(left, self._timeout)

    def _refuse_malformed(self, socket: Socket, error: MalformedEnvelope) -> None:
        self.counts.malformed += 1
        channel, route = self._return_path(socket, error.frames)
        sent_before = channel.sent
        problem = problem_of(error)
        self.counts.note(error, problem)
        request = Envelope("", PROBLEM_MIMETYPE, problem.to_json(), route)
        # A server that stops is not asked any more: it may take its time to decide.
        if self._server.stopping or not self._decided(channel, None, request, error, False):
            if self.can_answer and not self._answered(channel, sent_before):
                self._send(channel, request, 0)  # the messages of the other peers must not wait for this one
            self._complain("malformed", f"{self.name} received a {error}")
        self._tell_hooks(None, error)

    def _send_problem(
        self,
        channel: Any,
        received: ReceivedData,
        problem: Problem | None,
        sent_before: int,
        patience: float | None = None,
    ) -> None:
        """Answer with a problem, if there is one and the handler has not answered."""
        if problem is None or not self.can_answer:
            return
        if self._answered(channel, sent_before):
            return
        if not self.must_answer and is_problem(received.envelope):
            return  # two peers must not tell each other for ever that they do not want to hear of problems
        patience = self._patience if patience is None else patience
        self._send(channel, received.envelope.response_envelope(PROBLEM_MIMETYPE, problem.to_json()), patience)

    def _send(self, channel: Sender, envelope: Envelope, timeout: float | None) -> None:
        """Send a problem. Nobody is told when that does not work: there is nobody to tell."""
        try:
            channel.send_envelope(envelope, timeout)
            self.counts.replied += 1
        except (gevent.GreenletExit, gevent.Timeout) as stray:
            if isinstance(stray, gevent.GreenletExit) and self._server.stopping:
                raise
            self._send(channel, envelope, timeout)  # it was meant for the handler, which has returned
        except TransportError as error:
            self.counts.undelivered += 1
            self._complain("undelivered", f"an error reply of {self.name} was not delivered: {error}")


class PeerDispatcher(Dispatcher):
    """For `router`, `dealer` and `pair`: what a handler returns goes back by the request frames, if it returns."""

    can_answer = True

    def __init__(self, name: str, server: Any, socket: Socket, description: SocketDescription, *settings: Any) -> None:
        super().__init__(name, server, socket, description, *settings)
        # Frames that the peer has not sent. Behind a front, the socket itself is of another type.
        self._routing_ids = 1 if description.socket_type == "router" else 0
        if not self._routing_ids and socket.get_option("sndtimeo") < 0:
            self._patience = _PEER_PATIENCE

    def _open(self, socket: Socket, frames: list[bytes]) -> tuple[Any, ReceivedData]:
        if len(frames) == 3 and self._routing_ids:
            raise MalformedEnvelope("2 frames after the routing id, expected an empty delimiter and 3", frames)
        envelope = adopt(frames)
        metadata = Metadata.find(frames[self._routing_ids : -4]) if len(frames) > 4 + self._routing_ids else None
        received = ReceivedData(envelope, self._decoder, metadata)
        if self.until_closed:
            received.deadline = None  # that of a request of ours, which comes back with its answer
        return socket, received

    def _return_path(self, socket: Socket, frames: list[bytes]) -> tuple[Any, list[bytes]]:
        if b"" in frames[1:]:
            return socket, frames[: frames.index(b"", 1)]
        return socket, frames[: self._routing_ids]


class RepDispatcher(Dispatcher):
    """For `rep`, on a ROUTER: its handlers see no difference to a REP, and every request is answered once.

    A REP itself would take one request at a time, also when the server stops and callers wait to be told; it hides the
    request frames, in which a caller says how long it waits; and it drops replies when a peer has 1,000 of them to
    read.
    """

    can_answer = True
    must_answer = True

    def _open(self, socket: Socket, frames: list[bytes]) -> tuple[Any, ReceivedData]:
        try:
            body = frames.index(b"", 1) + 1  # as a REP does: the first empty frame ends the route
        except ValueError:
            raise MalformedEnvelope("no empty delimiter frame between the route and the envelope", frames) from None
        try:
            envelope = adopt(frames[body:])
        except MalformedEnvelope as error:
            raise MalformedEnvelope(error.reason, frames) from error.__cause__
        metadata = Metadata.find(frames[1 : body - 1]) if body > 2 else None
        return ReplySocket(socket, frames[:body]), ReceivedData(envelope, self._decoder, metadata)

    def _return_path(self, socket: Socket, frames: list[bytes]) -> tuple[Any, list[bytes]]:
        end = frames.index(b"", 1) if b"" in frames[1:] else 1
        return ReplySocket(socket, [*frames[:end], b""]), []


def _reply_frames(request: Envelope, result: Any) -> list[Any]:
    """The frames of what a handler returned, as the answer to this request."""
    if type(result) is str:  # mostly; the envelope that would be made of it, and taken apart again, costs 0.7 us
        return [*request._frames[:-2], _TEXT, result.encode()]
    if isinstance(result, ReceivedData):
        result = result.envelope
    if isinstance(result, Envelope):
        route = request.request_frames
        lost = route and not result.request_frames  # a new envelope, which has to find its way back
        return [*route, b"", *result._frames] if lost else result._frames
    if isinstance(result, Problem):
        return request.response_envelope(PROBLEM_MIMETYPE, result.to_json())._frames
    return request.response_envelope(*encode(result))._frames


def _message_of(error: BaseException) -> str:
    """What an exception says, if it can say it: not too long, and what can be said in UTF-8, as JSON has to."""
    try:
        return str(error)[:_LONGEST_MESSAGE].encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - it is somebody's, and the caller is still to be answered
        return ""


def socket_statistics(socket: Socket, socket_type: str) -> SocketStatistics:
    """What is known of a socket that is declared as one of this type."""
    return SocketStatistics(
        type=socket_type,
        endpoints=socket.endpoints,
        received=socket.received,
        handled=socket.received,
        sent=socket.sent,
        dropped=socket.dropped,
        bytes_received=socket.bytes_received,
        bytes_sent=socket.bytes_sent,
        connections=None if socket.connections is None else copy.copy(socket.connections),
    )


def dispatcher_class(socket_type: str) -> type[Dispatcher]:
    """The dispatcher that fits a socket of this declared type."""
    if socket_type == "rep":
        return RepDispatcher
    return PeerDispatcher if socket_type in ANSWERING_TYPES else Dispatcher
