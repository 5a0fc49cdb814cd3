"""The connection to one endpoint, over which many requests are on their way at once."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.hub import Waiter

from ..connecting import Diagnosis, Handshakes, backoff
from ..errors import ConnectionLost, MalformedEnvelope, SendTimeout, SocketClosed, TransientError, TransportError
from ..security import Credentials
from ..transport import Context, Link, Metadata, Socket, SocketMonitor
from ..transport.deadlines import handler_deadline, seconds_until
from ..transport.options import Options
from ..transport.receive_loop import RETRY_PAUSE
from ..transport.socket import BLOCKING_SECONDS
from ..transport.spawning import spawn_named
from .base import options_of
from .retrying import Circuit

__all__ = ["Call", "Connection"]

log = logging.getLogger(__name__)

_OPTIONS = {
    "linger": 0,  # nobody waits any more for the reply to what is queued when it is closed
    "rcvhwm": 0,  # no more replies come than there are callers; at a mark, libzmq would not notice a lost connection
}
_TURN_SECONDS = 0.002  # for which replies are handed out before other greenlets may run
_PAUSE = 1e-9  # more than nothing, so that timers and file descriptors get their turn too
_LIKELY = 4  # replies in a row after which another one is likely
_FIRST_DRAIN = 0.1  # seconds for which a service that shuts down is not asked; twice as long each time
_LONGEST_DRAIN = 2.0
_DRAIN_FORGOTTEN = 10.0  # seconds after which it begins with the first again
_HUB_INTERVAL = 0.05  # seconds after which the hub runs, also where it seems to have nothing to do
_BATCH = 16  # requests that are sent at once: more, and the service would have to wait for them
_SHOWN = 100  # bytes of such a frame in the log
_STABLE = 1.0  # seconds after which a connection that breaks was a good one, and is made again at once


class Call:
    """One call, over all its tries. Times are on the clock of `time.monotonic`.

    `frames` are those to send behind `frame`, the request frame of this try, which comes back with its reply.
    `handler_deadline` is when the handler that makes the call is given up. `asked` is whom it was sent to last, and
    `sent` whether it may have been handled. `traceparent` says which trace it belongs to.
    """

    __slots__ = ("asked", "began", "expires", "frame", "frames", "handler_deadline", "sent", "traceparent", "waiter")

    def __init__(self, frames: list[Any], timeout: float) -> None:
        self.frames = frames
        self.began = time.monotonic()
        self.expires = self.began + timeout
        self.handler_deadline = handler_deadline()
        self.frame = b""
        self.asked: Connection | None = None
        self.sent = False
        self.traceparent: str | None = None
        self.waiter: Any = None  # gets the frames of the reply, or an exception, or None when the time is up


class Connection:
    """The connection to one endpoint: a DEALER, watched by a monitor, and made anew when its connection is lost.

    A request is sent only when there is a connection, so that one that is lost takes with it only what was sent, and
    all these calls are told at once. `changed` is called when `ready`, or the refusal of `handshakes`, is another one.
    Raises `EndpointError` and `SecurityError`.
    """

    def __init__(
        self,
        uri: str,
        context: Context,
        options: Options | None,
        changed: Callable[[], None],
        credentials: Credentials | None = None,
    ) -> None:
        self.uri = uri
        self.handshakes = Handshakes(uri, credentials)
        self.link = Link()
        self.circuit = Circuit()
        self.calls: dict[bytes, Call] = {}  # on their way, by their request frame
        self.late = 0  # replies for which nobody waited any more
        self.closed = False  # by us, or with its context
        self._context = context
        self._options = options_of(_OPTIONS, options)
        self._changed = changed
        self._hub = gevent.get_hub()
        self._again = self._hub.loop.timer(_PAUSE)
        self._outbox: list[Call] | None = None  # requests to be sent when all replies that are there were handed out
        self._hub_is_due = 0.0
        self._looks_at = math.inf
        self._timer = self._hub.loop.timer(0)
        self._draining = False
        self._drain_timer = self._hub.loop.timer(0)
        self._drain_seconds = 0.0
        self._drained_at = -math.inf
        self._quick_losses = 0
        self._complained = False
        self._diagnosis = Diagnosis(uri)
        self._monitored = not uri.startswith("inproc:")  # of which libzmq tells nothing
        self.ready = not self._monitored  # whether a request can be sent
        self._socket, self._monitor = self._open()
        self._keeper = spawn_named(f"keep the connection to {uri}", self._keep) if self._monitored else None

    @property
    def state(self) -> str:
        """How it stands: one of `Link.STATES`, or "draining"."""
        if self._draining:
            return "draining"
        if self.ready:
            return "ready"
        return self.link.state if self.handshakes.refusal is None else "handshake failed"

    def exchange(self, call: Call) -> list[Any] | None:
        """Send a request, and return the frames of its reply, or None when there is none within its time.

        Raises `ConnectionLost`; or what `Socket.send_frames` raises, and then nothing was sent.
        """
        self.circuit.begin()
        if self._outbox is not None and self.calls:  # else nothing comes that it could be sent together with
            self._outbox.append(call)
            try:
                return self._wait_in_hub(call)
            except SendTimeout:
                pass  # there was no room for all of them: this one waits for it
        try:
            self._hear_of_losses()
            self._socket.send_frames([call.frame, *call.frames], seconds_until(call.expires))
        except SocketClosed:
            if not self._monitored:  # else the keeper of the connection knows why
                self._end()
            raise
        call.sent = True
        if not self.calls and self._nothing_else_runs(call.expires):
            reply = self._wait_in_libzmq(call)
            if reply is not None:
                return reply
        self._socket.look()
        return self._wait_in_hub(call)

    def _hear_of_losses(self) -> None:
        """Let the keeper hear what has happened while the hub did not run: in a script that did something else, say.

        Else a request would be sent by a connection that libzmq has made again since, and be failed with the lost one.
        Raises `SocketClosed` when the connection is not there any more.
        """
        while self._monitor is not None and self._monitor.pending():
            gevent.sleep(0)
            if not self.ready:
                raise SocketClosed(f"the connection to {self.uri} was lost before anything was sent")

    def _nothing_else_runs(self, expires: float) -> bool:
        """Whether nothing could run while this greenlet waits, as in a script that knows nothing of greenlets.

        That is when the hub watches nothing but our two sockets, and has nothing to call. It runs now and then all the
        same, for signals and children, which nothing counts.
        """
        now = time.monotonic()
        if now >= self._hub_is_due:
            self._hub_is_due = now + _HUB_INTERVAL
            return False
        if expires - now <= BLOCKING_SECONDS:
            return False
        loop: Any = self._hub.loop
        return getattr(loop, "activecnt", 0) == 2 and self._monitored and not (loop.pendingcnt or loop._callbacks)

    def _wait_in_libzmq(self, call: Call) -> list[Any] | None:
        """Wait for the reply without the hub, which would add a sixth to the time of a call.

        None when none came for a moment: then the hub is to see whether something else happened.
        """
        try:
            reply = self._socket.receive_blocking()
        except TransientError:
            return None
        except MalformedEnvelope as error:  # with too many frames
            if error.frames[0] == call.frame:
                raise
            reply = list(error.frames)
        if reply is None or reply[0] == call.frame:
            return reply
        self._drop(reply)
        return None

    def _wait_in_hub(self, call: Call) -> list[Any] | None:
        call.waiter = Waiter()
        self.calls[call.frame] = call
        if call.expires < self._looks_at:
            self._look_at(call.expires)
        try:
            return call.waiter.get()  # type: ignore[no-any-return]
        finally:
            self.calls.pop(call.frame, None)

    def _look_at(self, moment: float) -> None:
        """Look then whose time is up. One timer does for all calls: most of them are over long before."""
        self._looks_at = moment
        self._timer.close()
        self._timer = self._hub.loop.timer(max(0.0, moment - time.monotonic()), ref=False)
        self._timer.start(self._give_up)

    def _give_up(self) -> None:
        """Let those go on whose time is up. Called by the hub."""
        self._looks_at = math.inf
        self._timer.stop()
        now = time.monotonic()
        for call in [call for call in self.calls.values() if call.expires <= now]:
            if self.calls.pop(call.frame, None) is not None:  # else another one of them has ended it
                call.waiter.switch(None)
        first = min((call.expires for call in self.calls.values()), default=math.inf)
        if first < self._looks_at and not self.closed:
            self._look_at(first)

    def drain(self) -> None:
        """Send nothing more, since the service said that it shuts down: until it is back, or for a while.

        What says so may be one of several services behind a proxy, to which the connection is never lost.
        """
        if self._draining:
            return
        now = time.monotonic()
        first = now - self._drained_at > _DRAIN_FORGOTTEN
        self._drain_seconds = _FIRST_DRAIN if first else min(_LONGEST_DRAIN, 2 * self._drain_seconds)
        self._drained_at = now + self._drain_seconds
        self._draining = True
        self._drain_timer.close()
        self._drain_timer = self._hub.loop.timer(self._drain_seconds)
        self._drain_timer.start(self._end_drain)
        self._update()

    def _end_drain(self) -> None:
        self._draining = False
        self._drain_timer.stop()
        self._update()

    def _update(self) -> None:
        """See whether it is ready now, and let others know."""
        self.ready = not (self._draining or self.closed) and (self.link.ready or not self._monitored)
        self._changed()

    @property
    def words(self) -> str:
        """How it stands with the connection, in words."""
        if self._draining:
            return "the service is shutting down"
        if self.ready:
            return "connected"
        refusal = self.handshakes.refusal
        return Link.STATES[self.link.state] if refusal is None else refusal.known

    def known(self) -> str:
        """What is known of the connection, in words. May look why there is none, for a moment."""
        if self._draining or self.ready or self.handshakes.refusal is not None:
            return self.words
        return self.link.words(self._diagnosis.make)

    def close(self) -> None:
        """End it. Who waits for a reply, or to send, gets `SocketClosed`."""
        if self._keeper is not None:
            self._keeper.kill()
        self._end()
        for timer in (self._again, self._drain_timer, self._timer):
            timer.stop()
            timer.close()

    # The connection itself -------------------------------------------------------------------------------------

    def _open(self) -> tuple[Socket, SocketMonitor | None]:
        socket = self._context.socket("dealer", self._options)
        monitor = None
        try:
            if self._monitored:
                monitor = SocketMonitor(socket)
            self.handshakes.connect(socket)
            socket.call_back(self._read)
        except BaseException:
            if monitor is not None:
                monitor.close()
            socket.close(linger=0)
            raise
        return socket, monitor

    def _shut(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
        self._socket.close(linger=0)

    def _keep(self) -> None:
        """Watch the connection, and make another one when it is lost, for as long as the client is there."""
        try:
            while True:
                ready_at = self._watch()
                self._lose(ready_at is not None)
                if ready_at is None:
                    self.handshakes.judge(self._socket)
                    self._changed()
                gevent.sleep(self._pause(ready_at))
                self._reopen()
        except SocketClosed:  # somebody closed the context
            self._end()

    def _end(self) -> None:
        self.closed = True
        self._shut()
        self._fail_all(lambda _: SocketClosed(f"the client of {self.uri}, or its context, was closed"))
        self._update()

    def _watch(self) -> float | None:
        """Return when the connection is lost, or could not be used: since when it was ready, or None."""
        assert self._monitor is not None
        ready_at = None
        while True:
            try:
                event = self._monitor.receive()
            except TransientError:  # no memory is left, say
                gevent.sleep(RETRY_PAUSE)
                continue
            self.link.hear(event)
            if self.handshakes.hear(event):
                self._changed()
            if self.link.ready and ready_at is None:
                ready_at = time.monotonic()
                self._end_drain()
            elif event.kind == "disconnected":
                self._update()
                return ready_at

    def _lose(self, was_ready: bool) -> None:
        """Hand out the replies that came before the connection broke, and fail the calls that wait for others."""
        with contextlib.suppress(SocketClosed):
            for go_on, reply in self._replies():
                self._hub.loop.run_callback(go_on, reply)
        self._shut()
        if was_ready:  # no warning: whom it concerns is told by an exception
            log.info("the connection to %s was lost, with %d requests on their way", self.uri, len(self.calls))
        if self.calls:
            self.circuit.failed()
        now = time.monotonic()
        self._fail_all(lambda call: ConnectionLost(self.uri, now - call.began))

    def _pause(self, ready_at: float | None) -> float:
        """How long to wait before the next connection: not at all, unless one after the other is lost."""
        if ready_at is not None and time.monotonic() - ready_at >= _STABLE:
            self._quick_losses = 0
            return 0.0
        self._quick_losses += 1
        return backoff(self._quick_losses)

    def _reopen(self) -> None:
        tries = 0
        while True:
            try:
                self._socket, self._monitor = self._open()
                return
            except SocketClosed:
                raise
            except TransportError as error:  # no descriptors are left, say
                tries += 1
                log.warning("cannot connect to %s: %s; trying again until it works", self.uri, error)
                gevent.sleep(backoff(tries))

    # Replies -----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Hand out the replies that are there. Called by the hub: whoever waits for one goes on at once.

        What those send meanwhile is sent in the end. One by one, each would wake the thread of libzmq.
        """
        turn_ends = time.monotonic() + _TURN_SECONDS
        self._outbox = []
        more = True
        try:
            for go_on, reply in self._replies():
                go_on(reply)
                if len(self._outbox) >= _BATCH:
                    self._send_outbox()
                    self._outbox = []
                if time.monotonic() > turn_ends:
                    break
            else:
                more = False
        except TransientError:  # no memory is left, say
            pass
        except SocketClosed:
            more = False
        self._send_outbox()
        if more and not self.closed:
            self._again.start(self._read)

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox or (), None
        lost = bool(outbox) and self._monitor is not None and self._monitor.pending()  # as in `_hear_of_losses`
        for call in outbox:
            if call.frame in self.calls:  # else whoever wanted it waits no more
                try:
                    if lost:
                        raise SocketClosed(f"the connection to {self.uri} was lost before anything was sent")
                    self._socket.send_frames([call.frame, *call.frames], 0)
                    call.sent = True
                except TransportError as error:
                    call.waiter.throw(error)
        if outbox and not self.closed:
            self._socket.look()

    def _replies(self) -> Iterator[tuple[Callable[[Any], None], Any]]:
        """The replies that are there, each with what lets its caller go on with it."""
        socket, in_a_row = self._socket, 0
        while socket.readable(in_a_row > _LIKELY):
            in_a_row += 1
            malformed = None
            try:
                frames: list[Any] = socket.receive_frames(copy=False)
            except MalformedEnvelope as error:  # with too many frames
                malformed, frames = error, error.frames
            call = self.calls.pop(frames[0], None)
            if call is None:
                self._drop(frames)
            elif malformed is None:
                yield call.waiter.switch, frames
            else:
                yield call.waiter.throw, malformed

    def _drop(self, frames: list[Any]) -> None:
        """Count a reply for which nobody waits. One that was never asked for so is the peer's mistake."""
        self.late += 1
        if Metadata.find(map(bytes, frames[:1])) is None and not self._complained:
            self._complained = True
            log.warning(
                "%s sends replies without the request frame of their request, so nobody gets them; they begin with %r",
                self.uri,
                bytes(frames[0])[:_SHOWN],
            )

    def _fail_all(self, error_for: Callable[[Call], Exception]) -> None:
        calls, self.calls = self.calls, {}
        for call in calls.values():
            self._hub.loop.run_callback(call.waiter.throw, error_for(call))
