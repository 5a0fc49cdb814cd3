"""The server: sockets, the loop that feeds them, and the life of both."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any, ClassVar

import gevent
import msgspec
from gevent.event import Event
from gevent.pool import Group

from ..config import ServerSettings
from ..errors import DeclarationError, SecurityError, ServerFailing, TransportError
from ..security import Credentials, Security
from ..statistics import ServerStatistics, Timings
from ..transport import DEFAULT_LINGER, Context, Loop, ReceivedData, ReceiveLoop, Socket, SocketHandler
from ..transport.spawning import spawn_named, wait_for_one
from .control import ControlLink, Stop
from .declare import Periodic, ServerDescription, SocketDescription
from .dispatch import Counts, Dispatcher, dispatcher_class, socket_statistics
from .farewell import ENDING_TIME, Farewell
from .fronted import FrontLink
from .hooks import Hook, Hooks
from .sockets import Sockets

__all__ = ["GRACEFUL_TIMEOUT", "DployServer", "Server"]

log = logging.getLogger(__name__)

GRACEFUL_TIMEOUT = 30.0
"""Seconds that a stop gives to running handlers, as with gunicorn."""

_COUNTING_INTERVAL = 0.25  # seconds
_SET_BY_INIT = ("name", "settings", "context", "sockets", "hooks")
_LEAST_CLOSING_TIME = 0.5  # seconds for `teardown` and for flushing, each, when nothing is left of the graceful timeout


def checked_graceful_timeout(seconds: float) -> float:
    """These seconds, if they are from 0 on; else `ValueError`. Infinity becomes some decades."""
    if not seconds >= 0:
        raise ValueError(f"a graceful timeout is a number of seconds from 0 on, not {seconds!r}")
    return min(seconds, 1e9)


class DployServer:
    """A running set of sockets: what every `Server` is underneath.

    `name` is what the configuration calls it. `settings` are its part of the configuration. `control_uri` is the
    endpoint of the coordinator's control socket, None for a server that nobody coordinates. `poll_loop` is the loop
    that feeds the sockets to their handlers: a new `ReceiveLoop`, if none is given.
    """

    def __init__(
        self,
        name: str,
        settings: ServerSettings | None,
        control_uri: str | None,
        context: Context,
        poll_loop: Loop | None = None,
    ) -> None:
        self.name = name
        self.settings: Any = settings
        self.context = context
        self.sockets = Sockets()
        self.hooks: Sequence[Hook] = ()  # to be set before the start
        self._control_uri = control_uri
        self._loop: Loop = poll_loop or ReceiveLoop()
        self._dispatchers: dict[str, Dispatcher] = {}
        self._links: dict[str, FrontLink] = {}  # of the sockets that are behind a front
        self._background = Group()
        self._state = "starting"
        self._hub_delay = Timings()
        self.hub_ran_at: float | None = None  # on the clock of time.monotonic, as of the last look
        self._failure: ServerFailing | None = None
        self._control: ControlLink | None = None
        self._hub: Any = None  # in which it runs, for who asks what it does
        self._stop_by: float | None = None  # on the clock of time.monotonic
        self._told_to_stop = Event()
        self._out_of_time = Event()  # the handlers have had their time
        self._farewell = Farewell(name, self._out_of_time)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    # What a server class fills in -----------------------------------------------------------------------------

    def setup(self) -> None:
        """Called when the sockets are bound and connected, before anything is received. Does nothing here."""

    def teardown(self) -> None:
        """Called when the handlers are done, before the sockets are closed. Does nothing here."""

    def on_error(self, socket: Any, received: ReceivedData | None, error: BaseException) -> Any:
        """Called when a message was not handled, to decide what to do about it. Does nothing here.

        `error` is what the handler raised; `HandlerTimeout`, `DeadlineExceeded` or `NoReply`; the `PeerError` of a body
        that is not what was declared, or a `MalformedEnvelope`, and then `received` is None. `socket` is what the
        handler gets.

        What it returns is sent as the reply where there is a way back, and stands for "taken care of" elsewhere: then
        nothing is logged. So does a reply to a `rep` that it sent itself. When it returns None, or raises, what happens
        without it happens: the peer gets a problem, and the log a line.
        """

    # What it can do --------------------------------------------------------------------------------------------

    @property
    def counts(self) -> dict[str, Counts]:
        """What came of the messages of each listening socket, by configured name."""
        return {name: dispatcher.counts for name, dispatcher in self._dispatchers.items()}

    @property
    def endpoints(self) -> dict[str, list[str]]:
        """What each socket is bound or connected to, wildcards resolved, by configured name.

        Of one behind a front, what the front is bound to.
        """
        return {name: self._endpoints_of(name, socket) for name, socket in self.sockets.items()}

    def _endpoints_of(self, name: str, socket: Socket) -> list[str]:
        return list(self._links[name].uris) if name in self._links else socket.endpoints

    @property
    def _phase(self) -> str:
        """What it is doing: starting, running, stopping, or stopped."""
        return "stopping" if self.stopping and self._state == "running" else self._state

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop, or has failed."""
        return self._stop_by is not None

    def add_socket(self, name: str, socket: Socket, handler: SocketHandler | None = None) -> None:
        """Add a socket, which is closed with the server. `handler(socket)` is called when it can be received on."""
        self.sockets.add(name, socket)
        if handler is not None:
            self._loop.register(socket, handler)

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> gevent.Greenlet[..., Any]:
        """Run a function in a greenlet that ends with the server. When it raises, the server fails."""
        what = getattr(function, "__qualname__", repr(function))
        greenlet = gevent.Greenlet(self._guard, what, function, *args, **kwargs)
        greenlet.name = f"{self.name}: {what}"
        self._background.start(greenlet)
        return greenlet

    def start(self) -> None:
        """Open the sockets, and serve until the server is stopped.

        Raises what `setup` or a socket raised; `ServerFailing` when it died later on. Nothing is left open.
        """
        self._hub = gevent.get_hub()
        hooks = Hooks(self.hooks)
        try:
            self._live(hooks)
        except BaseException as error:
            hooks.call("server_failed", self, error)
            raise
        hooks.call("server_stopped", self)

    def stop(self, graceful_timeout: float = GRACEFUL_TIMEOUT) -> None:
        """Receive nothing more, and let `start` return. Does not wait for that.

        What a front has given to the server is still received, until that gives it no more.

        Running handlers may go on for `graceful_timeout` seconds; then they are ended, and their callers told. Stopping
        again can only make that shorter. Raises `ValueError` for what is no number from 0 on.
        """
        stop_by = time.monotonic() + checked_graceful_timeout(graceful_timeout)
        if self._stop_by is None or stop_by < self._stop_by:
            is_leaving, self._stop_by = self._stop_by is not None, stop_by
            for link in self._links.values():
                link.leave()
            if graceful_timeout == 0 or all(link.released.is_set() for link in self._links.values()):
                self._stop_receiving()
            elif not is_leaving:
                leaving: gevent.Greenlet[..., object] = gevent.Greenlet(self._leave_fronts)
                leaving.name = f"{self.name}: leave the fronts"
                self._background.start(leaving)
            timer: gevent.Greenlet[..., object] = gevent.Greenlet(self._cancel_after, graceful_timeout)
            timer.name = f"{self.name}: end the handlers"
            self._background.start(timer)

    def _leave_fronts(self) -> None:
        """Stop receiving as soon as no front has anything more for us."""
        for link in self._links.values():
            wait_for_one(link.released, self._out_of_time)
        self._stop_receiving()

    def _stop_receiving(self) -> None:
        self._told_to_stop.set()
        self._loop.stop()

    # Its life --------------------------------------------------------------------------------------------------

    def _live(self, hooks: Hooks) -> None:
        try:
            self._open(hooks)
            self.setup()
            try:
                if not self.stopping:
                    self._state = "running"
                    hooks.call("server_started", self)
                    self._run(hooks)
            finally:
                self._shut_down()
        finally:
            try:
                self._farewell.end()
                self._background.kill(timeout=_LEAST_CLOSING_TIME)
            finally:  # who gave us up may kill us here
                if self._control is not None:
                    self._control.close()
                for link in self._links.values():
                    link.close()
                self.sockets.close(min(self._time_left(_LEAST_CLOSING_TIME), DEFAULT_LINGER))
                self._stop_by = 0.0  # a stop that comes now has nothing to do
                self._state = "stopped"
        if self._failure is not None:
            raise self._failure

    def _open(self, hooks: Hooks) -> None:
        """Make the sockets."""

    def _run(self, hooks: Hooks) -> None:
        """Say that the server is ready, receive until it is stopped or fails, and see to it that nobody waits in vain.

        The order of a stop is numbered here and in `_shut_down`. All phases share one deadline.
        """
        if self._control_uri is not None:
            self._control = ControlLink(self.name, self._control_uri, self.context)
            self.spawn(self._control.listen, self._obey)
        # In a greenlet of its own, so that killing the server is something else than killing one of its handlers.
        receiving = spawn_named(f"{self.name}: receive", self._guard, "receiving", self._loop.run)
        try:
            wait_for_one(receiving, self._told_to_stop)
            if isinstance(receiving.value, gevent.GreenletExit) and not self.stopping:
                self._fail("receiving", receiving.value)  # somebody killed it
            hooks.call("server_stopping", self)
            # 1. Nothing new is begun. Who asks is told so, and nobody can push any more.
            # Only with our own loop it is known of each socket when its handlers are done. Who is behind a front has
            # nothing to do with that: the front gives to others what is not begun.
            dispatchers = [one for name, one in self._dispatchers.items() if name not in self._links]
            self._farewell.begin(dispatchers, None if type(self._loop) is ReceiveLoop else receiving)
            # 2. The handlers that run may finish, and what PULL sockets have received is handled too.
            wait_for_one(receiving, self._out_of_time)
            self._farewell.finish_handing_on()
        except BaseException:  # the server was killed
            self._out_of_time.set()
            raise
        finally:
            if self._stop_by is None:  # it is the server that was killed
                self._stop_by = time.monotonic()
                self._farewell.begin([one for name, one in self._dispatchers.items() if name not in self._links])
            # 3. The handlers that still run are ended. They tell their callers.
            self._end_handlers(receiving)
            self._farewell.let_callers_hear(self._time_left())

    def _end_handlers(self, receiving: gevent.Greenlet[..., Any]) -> None:
        self._loop.kill(ENDING_TIME)
        receiving.join(timeout=_LEAST_CLOSING_TIME)
        for dispatcher in self._dispatchers.values():
            if dispatcher.running:
                log.error(
                    "%d handlers of %s do not end although they were told to", dispatcher.running, dispatcher.name
                )

    def _shut_down(self) -> None:
        # 4. The background greenlets end. Until now the control socket was listened to: a second stop is quicker.
        try:
            self._background.kill(timeout=ENDING_TIME)
            for greenlet in self._background:
                log.error("%s does not end although it was told to", greenlet.name)
        finally:
            # 5. The server tidies up.
            self._tear_down()
        # 6. The sockets send what they have, and close: _live() does that, also when the server never ran.

    def _tear_down(self) -> None:
        seconds = self._time_left(_LEAST_CLOSING_TIME)
        timer = gevent.Timeout.start_new(seconds)
        try:
            self.teardown()
        except (Exception, SystemExit, gevent.Timeout) as error:
            if error is timer:
                log.error("teardown of server %s did not finish within %.1f s", self.name, seconds)
            else:
                log.exception("teardown of server %s failed", self.name)
        finally:
            timer.close()

    def _time_left(self, at_least: float = 0.0) -> float:
        """Seconds until the deadline of the stop."""
        return max(at_least, (self._stop_by or 0) - time.monotonic())

    def _cancel_after(self, seconds: float) -> None:
        gevent.sleep(seconds)
        self._out_of_time.set()

    def _obey(self, stop: Stop) -> None:
        self.stop(stop.graceful_timeout)

    def _guard(self, what: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (gevent.GreenletExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised from start()
            self._fail(what, error)
            return None

    def _fail(self, what: str, error: BaseException) -> None:
        if self._failure is None:
            self._failure = ServerFailing(f"server {self.name!r} died: {what} raised {type(error).__name__}: {error}")
            self._failure.__cause__ = error
        self.stop(0)


class Server(DployServer):
    """A server as a class: subclass it, and declare its sockets as attributes and decorated methods.

    For example::

        class EchoServer(Server):
            @bind_in("request", "rep")
            def echo(self, socket, received):
                return received.text

    `settings.get(key)` has the general settings of the configuration, and `own` those of this server. A subclass that
    needs to prepare something overrides `setup`.
    """

    description: ClassVar[ServerDescription]
    """What the class declares."""

    _served_until_closed: ClassVar[Collection[str]] = ()

    single: ClassVar[bool] = False
    """Whether there is one of them only, in one process, since it keeps what several could not share."""

    settings_type: ClassVar[type[msgspec.Struct] | None] = None
    """A Struct with the settings that servers of this class have for themselves, in the section `settings`."""

    @cached_property
    def own(self) -> Any:
        """Its own settings: a `settings_type`. Raises `ConfigurationError` for what is none."""
        if self.settings_type is None:
            raise TypeError(f"{type(self).__name__} has no settings of its own: it declares no settings_type")
        return self.settings.own(self.settings_type)

    def statistics(self) -> ServerStatistics:
        """What is known of the server and its sockets at this moment. Any thread may ask."""
        types = {one.name: one.socket_type for one in self.description.sockets.values()}
        sockets = {}
        for name, socket in self.sockets.items():  # some may come meanwhile
            dispatcher = self._dispatchers.get(name)
            if dispatcher is None:
                found = socket_statistics(socket, types.get(name, socket.socket_type))
            else:
                found = dispatcher.statistics()
            found.endpoints = self._endpoints_of(name, socket)
            sockets[name] = found
        hub_delay = self._hub_delay.count()
        return ServerStatistics(type=type(self).__qualname__, state=self._phase, hub_delay=hub_delay, sockets=sockets)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.description = ServerDescription(cls)
        for attribute in (*cls.description.sockets, *cls.description.periodic):
            if hasattr(Server, attribute) or attribute in _SET_BY_INIT:
                raise DeclarationError(f"{cls.__name__}.{attribute} hides what every server has; give it another name")
        for attribute in cls.description.sockets:
            if hasattr(Sockets, attribute):
                raise DeclarationError(
                    f"{cls.__name__}.{attribute} would be self.sockets.{attribute}, which is a method; give it another "
                    "name (the configuration may keep it)"
                )

    def _open(self, hooks: Hooks) -> None:
        configured = self.settings.socket_names
        for description in self.description.sockets.values():
            if description.name in configured or not description.optional:
                self._open_socket(description, hooks)

    def _open_socket(self, description: SocketDescription, hooks: Hooks) -> None:
        name = description.name
        where = f"{self.name}.{name}"
        info = self.settings.socket_info(name)
        concurrency = info.concurrency or description.concurrency
        counts = self.settings.monitoring.statistics
        try:
            security = self.settings.security(name)
            credentials = None if security == Security() else Credentials(security)
            place = self.settings.place(name)
            if place.front:
                socket = self._link(description, info.uris, place.front, concurrency, credentials).socket
            else:
                socket = description.create_socket(
                    self.context, info.uris, info.options, concurrency, credentials, where, place.descriptors, counts
                )
        except (TransportError, SecurityError) as error:
            raise type(error)(f"server {self.name!r}, socket {name!r}: {error}") from error
        self.sockets.add(name, socket, description.attribute)
        if name not in self._links:  # whose front looks at that
            socket.max_frames = info.max_frames or description.max_frames
        if description.input_handler is None:
            return
        timeout = description.timeout if info.timeout is None else info.timeout
        overload = info.overload or description.overload
        flaw = description.overload_flaw(overload)
        if flaw:
            raise DeclarationError(f"{where}: {flaw}")
        rejects = overload == "reject"
        make = dispatcher_class(description.socket_type)
        dispatcher = make(where, self, socket, description, concurrency, timeout, rejects, hooks, counts)
        dispatcher.until_closed = description.attribute in self._served_until_closed
        self._dispatchers[name] = dispatcher
        handler: SocketHandler = dispatcher
        if name in self._links:
            handler = self._links[name].handled_by(dispatcher, polls=type(self._loop) is not ReceiveLoop)
        self._loop.register(socket, handler, concurrency + rejects)  # one to say that all the others are busy

    def _link(
        self,
        description: SocketDescription,
        uris: list[str],
        front: str,
        concurrency: int,
        credentials: Credentials | None,
    ) -> FrontLink:
        """Connect to the front that has the connections of a socket."""
        name = description.name
        link = FrontLink(self.context, front, f"{self.name}.{name}", uris, description.socket_type, concurrency)
        self._links[name] = link
        try:
            authenticator = None if credentials is None else self.context.authenticator
            if credentials is not None and authenticator is not None:
                gate = credentials.gate(authenticator.rosters)
                if gate is not None:
                    link.know_senders(authenticator.remote_guard(link.name, gate))
        except BaseException:
            link.socket.close(linger=0)
            raise
        return link

    def _run(self, hooks: Hooks) -> None:
        for description in self.description.sockets.values():
            if description.socket_type != "sub" or description.input_handler is None:
                continue
            if description.name in self.sockets and not self.sockets[description.name].subscribed:
                log.warning(
                    "%s.%s is a sub socket without a subscription and receives nothing; set its option subscribe, to "
                    "'' for everything",
                    self.name,
                    description.name,
                )
        for attribute, periodic in self.description.periodic.items():
            repeating = self.spawn(self._repeat, attribute, periodic)
            repeating.name = f"{self.name}: {type(self).__name__}.{attribute}"
        self.spawn(self._keep_count)
        super()._run(hooks)

    def _keep_count(self) -> None:
        """Find out how late the hub is, and count what was noted meanwhile."""
        while True:
            began = time.monotonic()
            gevent.sleep(_COUNTING_INTERVAL)
            self.hub_ran_at = time.monotonic()
            self._hub_delay.note(max(0.0, self.hub_ran_at - began - _COUNTING_INTERVAL))
            self._hub_delay.count()
            for dispatcher in self._dispatchers.values():
                dispatcher.count_times()

    def _repeat(self, attribute: str, periodic: Periodic) -> None:
        due = time.monotonic()
        while True:
            behind = max(0.0, time.monotonic() - due)
            due += periodic.seconds * (1 + behind // periodic.seconds)
            gevent.sleep(max(0.0, due - time.monotonic()))
            try:
                periodic.function(self)
            except (Exception, gevent.Timeout):
                log.exception("%s.%s failed; it is called again in %g s", self.name, attribute, periodic.seconds)


Server.description = ServerDescription(Server)
