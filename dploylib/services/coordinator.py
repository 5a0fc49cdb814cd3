"""Coordinators: what spawns the servers of a service, watches them, starts them again and stops them."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import gevent
from gevent.event import AsyncResult, Event
from gevent.pool import Group

from ..config import ServerSettings, Settings
from ..errors import ServerFailing, ServiceStateError, SocketClosed
from ..security import leaves_machine
from ..servers import GRACEFUL_TIMEOUT, Hook, Server
from ..servers.control import Stop, control_topic
from ..servers.hooks import Hooks
from ..statistics import ServerStatistics, at_rest, together
from ..transport import Context, ReceiveLoop, Socket
from ..transport.spawning import spawn_named
from .observing import observers
from .supervision import Restarts

__all__ = ["GreenletServerCoordinator", "ServerCoordinator", "ServerRun"]

log = logging.getLogger(__name__)

# Seconds that a server has for closing after its graceful timeout, before it is killed: more than it allows itself for
# ending handlers and background greenlets, and for teardown().
_CLOSING_TIME = 7.0
_DYING_TIME = 3.0  # seconds that it has then, before it is left behind
_SUBSCRIBED = b"\x01"  # the first byte of what an XPUB receives when somebody subscribes


class ServerRun:
    """One run of a server, from its start to its end.

    If it gets a hub of its own, what blocks that for more than `max_blocking` seconds is logged (0: nothing is).
    `ready` is set once the server has its sockets and is set up; `endpoints` are what these are bound and connected to
    then. `ended` is set once it is over, and `error` is why, if it was not told to stop. `server` is the server, if it
    runs in this process; else `told` is what its process has told of it last. `before` is what the runs of it before
    this one have counted, which have ended.
    """

    def __init__(
        self,
        name: str,
        server_cls: type[Server],
        settings: ServerSettings,
        control_uri: str,
        hooks: Sequence[Hook] = (),
        max_blocking: float = 0,
    ) -> None:
        self.name = name
        self.server_cls = server_cls
        self.settings = settings
        self.control_uri = control_uri
        self.hooks = hooks
        self.max_blocking = max_blocking
        self.server: Server | None = None
        self.spawned = False
        self.endpoints: dict[str, list[str]] = {}
        self.ready = Event()
        self.ended = Event()
        self.error: BaseException | None = None
        self.told: ServerStatistics | None = None
        self.before: ServerStatistics | None = None

    @property
    def state(self) -> str:
        """What the server is doing: starting, running, stopping or stopped."""
        if self.ended.is_set():
            return "stopped"
        if self.server is not None:
            return self.server._phase
        return "starting" if self.told is None else self.told.state

    def statistics(self) -> ServerStatistics:
        """What this run of the server and those before it have counted."""
        now = self.told if self.server is None else self.server.statistics()
        if now is None:
            now = ServerStatistics(type=self.server_cls.__qualname__)
        now.state = self.state
        return now if self.before is None else together([{"": now}, {"": self.before}])[""]

    def serve(self, context: Context) -> BaseException | None:
        """Make the server, here where it is to run, and run it to its end. Returns what it raised."""
        try:
            self.server = server = self.server_cls(self.name, self.settings, self.control_uri, context)
            server.hooks = [*observers(self.settings), *self.hooks]
            server.start()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - wait() raises it
            return error
        return None

    def greenlet(self, context: Context) -> gevent.Greenlet[..., BaseException | None]:
        """A greenlet that will `serve`, in the hub in which this is called."""
        self._serving: gevent.Greenlet[..., BaseException | None] = gevent.Greenlet(self.serve, context)
        self._serving.name = f"server {self.name}"
        return self._serving

    def outcome(self) -> BaseException | None:
        """What that greenlet came to. It may have been killed before it began."""
        error: BaseException | None = self._serving.exception or self._serving.value
        return error

    def end_at_once(self) -> None:
        """Kill that greenlet. Its handlers know what happens, and tell their callers. Called in its hub."""
        if self.server is not None:
            self.server.stop(0)
        self._serving.kill(block=False)

    def again(self) -> ServerRun:
        """The next run of the server, at the same endpoints."""
        settings = self.settings.at(self.endpoints)
        other = ServerRun(self.name, self.server_cls, settings, self.control_uri, self.hooks, self.max_blocking)
        other.endpoints = self.endpoints
        other.before = at_rest([{"": self.statistics()}])[""]
        return other


class ServerCoordinator:
    """Spawns servers, notices when one dies, starts it again if it should, and stops them.

    Subclasses say where a server runs: `spawn` and `kill`.

    `control_uri` is the endpoint of the control socket, which carries the stop to the servers: one of its own, unless
    given. `context` is the context that the servers get; without one, each start makes a new one and the stop closes
    it. Raises `ValueError` for a control socket that other machines could reach.
    """

    in_this_process: ClassVar[bool] = True
    """Whether the servers run in this process."""

    def __init__(self, control_uri: str | None = None, context: Context | None = None) -> None:
        if control_uri is not None and leaves_machine(control_uri):
            raise ValueError(
                f"{control_uri} can be reached from other machines, and carries the stop: use ipc or inproc"
            )
        self._given_control_uri = control_uri
        self._given_context = context
        self._context: Context | None = None
        self._control: Socket | None = None
        self._watcher: gevent.Greenlet[..., None] | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Forget the run before: a coordinator may be used again."""
        self._runs: dict[str, ServerRun] = {}
        self._restarts: dict[str, Restarts] = {}
        self._supervising = Group()
        self._hooks = Hooks()
        self._outcome: AsyncResult[None] = AsyncResult()
        self._started = False
        self._stopping = False
        self._stopped = Event()

    # What a subclass decides -----------------------------------------------------------------------------------

    def spawn(self, run: ServerRun) -> None:
        """Let `run.serve(context)` run somewhere, and see to it that `server_ended(run, error)` is called after it.

        The error is what `serve` returned, or why it did not come that far.
        """
        raise NotImplementedError(f"{type(self).__name__} must say in spawn() where a server runs")

    def kill(self, run: ServerRun) -> None:
        """End a server that is not ready, or did not stop when it was told to. Does not wait for that."""
        raise NotImplementedError(f"{type(self).__name__} must say in kill() how a server is ended")

    def abandon(self, run: ServerRun) -> None:
        """Do without the end of a server that goes on although it was killed."""
        log.error("server %s goes on although it was killed, and is left behind", run.name)
        self.server_ended(run, None)

    def hubs_have_run(self) -> bool:
        """Whether the hubs of all servers have run since this was called last. They do in the caller's hub, here."""
        return True

    def server_ready(self, run: ServerRun) -> None:
        """Called when a server has said that it is ready. A subclass that has to learn its endpoints may defer it."""
        if run.server is not None:
            run.endpoints = run.server.endpoints
        run.ready.set()

    def server_ended(self, run: ServerRun, error: BaseException | None) -> None:
        """To be called in this thread's hub when a server has ended, with what it raised."""
        if run.ended.is_set():  # it was given up, but came to its end after all
            return
        run.error = error
        run.ended.set()
        if self._stopping or self._outcome.ready():
            if isinstance(error, Exception) and run.ready.is_set():  # nobody else will tell
                log.error("server %s died while it was to stop", run.name, exc_info=error)
            return
        if self._started:
            # In a greenlet: this may be the hub, in which neither hooks nor logs can wait.
            self._supervising.add(spawn_named(f"supervise server {run.name}", self._supervise, run))
        else:
            self._outcome.set_exception(_as_failure(run))  # which start() raises

    # What they share -------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether it runs servers, or is about to."""
        return self._control is not None

    @property
    def context(self) -> Context:
        """The context of the servers. Raises `ServiceStateError` before the start."""
        if self._context is None:
            raise ServiceStateError("there is no context before the service is started")
        return self._context

    @property
    def servers(self) -> dict[str, Server]:
        """The servers by name, as far as they run in this process."""
        return {name: run.server for name, run in self._runs.items() if run.server is not None}

    @property
    def endpoints(self) -> dict[str, dict[str, list[str]]]:
        """What each socket of each server is bound or connected to, wildcards resolved, by names."""
        return {name: run.endpoints for name, run in self._runs.items()}

    @property
    def restarts(self) -> dict[str, int]:
        """How often each server was started again, by name."""
        return {name: restarts.total for name, restarts in self._restarts.items()}

    @property
    def states(self) -> dict[str, str]:
        """What each server is doing, by name. Any thread may ask."""
        return {name: run.state for name, run in self._runs.copy().items()}

    def statistics(self) -> dict[str, ServerStatistics]:
        """What is known of each server at this moment, by name. Any thread may ask.

        Of one in a process of its own, what that has told within the last second.
        """
        found = {name: run.statistics() for name, run in self._runs.copy().items()}
        for name, server in found.items():
            server.restarts = self._restarts[name].total
        return found

    def setup_servers(
        self,
        servers: Mapping[str, type[Server]],
        settings: Settings,
        hooks: Sequence[Hook] = (),
        max_blocking: float = 0,
    ) -> None:
        """Make the control socket, and prepare a run of each server with its part of the settings. `stop` undoes it."""
        self._prepare()
        self._context = context = self._given_context or Context.new()
        # Verbose: a server that is started again may subscribe before its last run is known to be gone.
        options = {"xpub_verbose": 1}
        self._control = Socket.bind_new("xpub", self._make_control_uri(), options, context)
        self._hooks = Hooks(hooks)
        self._restarts = {name: Restarts(settings.supervision(name)) for name in servers}
        self._runs = {
            name: ServerRun(
                name, server_cls, settings.server_settings(name), self._control.endpoint, hooks, max_blocking
            )
            for name, server_cls in servers.items()
        }

    def _make_control_uri(self) -> str:
        return self._given_control_uri or f"inproc://control-{id(self):x}"

    def start(self) -> None:
        """Spawn the servers, and return when all are ready. If one is not, stop them all and raise why.

        Raises `ServiceStateError` when `stop` is called meanwhile.
        """
        try:
            self._check_not_stopped()
            if self._control is None:
                raise ServiceStateError("setup_servers() comes before start()")
            self._watcher = spawn_named("watch the control socket", self._watch_readiness, self._control)
            for run in self._runs.values():
                log.debug("spawning server %s", run.name)
                self._spawn(run)
                self._check_not_stopped()
            self._wait_until_ready()
            self._started = True
        except BaseException:
            self._outcome = AsyncResult()  # a start that failed has told why; there is nothing to wait for
            if self._stopping:
                self._stopped.wait()
            else:
                self.stop(graceful_timeout=0)
            raise

    def wait(self) -> None:
        """Return when the servers have been stopped. Raises `ServerFailing` as soon as one died for good."""
        self._outcome.get()

    def stop(self, graceful_timeout: float = GRACEFUL_TIMEOUT) -> None:
        """Stop the servers. Running handlers get `graceful_timeout` seconds to finish.

        A second call while the first one waits can make that shorter.
        """
        first, self._stopping = not self._stopping, True
        try:
            self._end_servers(graceful_timeout)
        finally:
            if first:
                self._close()
        self._stopped.wait()

    def _spawn(self, run: ServerRun) -> None:
        run.spawned = True  # before it is: a stop may come meanwhile
        try:
            self.spawn(run)
        except BaseException:
            run.spawned = False
            raise

    def _supervise(self, run: ServerRun) -> None:
        """See to a server that has ended."""
        try:
            self._restart_or_fail(run)
        finally:  # also when a hook that was killed, say, has got in between
            if self._runs[run.name] is run and not self._stopping and not self._outcome.ready():
                self._outcome.set_exception(_as_failure(run))

    def _restart_or_fail(self, run: ServerRun) -> None:
        """Start a server that died again, in a while; or fail, if it is not to be started again."""
        restarts = self._restarts[run.name]
        delay = None if run.error is None else restarts.next_delay()  # one that ended by itself did not fail
        if delay is None:
            if run.error is None:
                log.error("server %s ended without being told to", run.name)
            else:
                log.error("server %s died", run.name, exc_info=run.error)
            self._outcome.set_exception(_as_failure(run, restarts))
            return
        log.error("server %s died, and is started again in %.2f s", run.name, delay, exc_info=run.error)
        self._hooks.call("server_restarting", run.name, run.error, delay)
        gevent.sleep(delay)
        log.info("starting server %s again", run.name)
        self._runs[run.name] = again = run.again()
        try:
            self._spawn(again)
        except Exception as error:  # noqa: BLE001 - whatever it is, another try may help
            self.server_ended(again, error)

    def _end_servers(self, graceful_timeout: float) -> None:
        self._supervising.kill(timeout=_DYING_TIME)
        for run in self._alive():
            if run.ready.is_set() and self._control is not None:
                self._control.send_obj(Stop(graceful_timeout), id=control_topic(run.name))
            elif run.spawned:
                self.kill(run)
            else:
                self.server_ended(run, None)
        gevent.wait([run.ended for run in self._alive()], timeout=graceful_timeout + _CLOSING_TIME)
        for run in self._alive():
            log.error("server %s did not stop within %g s, and is killed", run.name, graceful_timeout + _CLOSING_TIME)
            self.kill(run)
        gevent.wait([run.ended for run in self._alive()], timeout=_DYING_TIME)
        for run in self._alive():
            if not run.ended.is_set():  # while others were given up
                self.abandon(run)

    def _close(self) -> None:
        try:
            control, self._control = self._control, None
            if control is not None:
                if self._watcher is not None:
                    self._watcher.kill()
                control.close(linger=0)
            if self._given_context is None and self._context is not None:
                self._close_context(self._context)
        finally:
            self._stopped.set()
            if not self._outcome.ready():
                self._outcome.set(None)

    def _close_context(self, context: Context) -> None:
        context.close()

    def _check_not_stopped(self) -> None:
        if self._stopping:
            raise ServiceStateError("the service was stopped while it started")

    def _alive(self) -> list[ServerRun]:
        return [run for run in self._runs.values() if not run.ended.is_set()]

    def _wait_until_ready(self) -> None:
        runs = self._runs.values()
        if not runs:
            return
        for _ in gevent.iwait([self._outcome, *(run.ready for run in runs)]):  # the outcome is there if one died
            self._check_not_stopped()
            for run in runs:
                if run.ended.is_set():
                    # Never a GreenletExit, which would end the caller without a word.
                    error = run.error if isinstance(run.error, Exception | SystemExit) else _as_failure(run)
                    if sys.version_info >= (3, 11):
                        error.add_note(f"server {run.name!r} did not start")
                    raise error
            if all(run.ready.is_set() for run in runs):
                return

    def _watch_readiness(self, control: Socket) -> None:
        names = {control_topic(name).encode(): name for name in self._runs}

        def hear(control: Socket) -> None:
            event = b"".join(control.receive_frames())
            name = names.get(event[1:])
            if name is not None and event.startswith(_SUBSCRIBED):
                self.server_ready(self._runs[name])

        loop = ReceiveLoop()
        loop.register(control, hear)
        with contextlib.suppress(SocketClosed):  # somebody closed the context that was given
            loop.run()


class GreenletServerCoordinator(ServerCoordinator):
    """Runs each server in a greenlet of this thread."""

    def spawn(self, run: ServerRun) -> None:
        """Run the server in a greenlet."""
        greenlet = run.greenlet(self.context)
        greenlet.link(lambda _: self.server_ended(run, run.outcome()))  # which comes too when it is killed unbegun
        greenlet.start()

    def kill(self, run: ServerRun) -> None:
        """Kill the server's greenlet."""
        run.end_at_once()


def _as_failure(run: ServerRun, restarts: Restarts | None = None) -> ServerFailing:
    """Why a server, and with it the service, fails."""
    error = run.error
    if isinstance(error, ServerFailing):
        text, cause = str(error), error.__cause__
    else:
        reason = "" if error is None else f": {error!r}"
        text, cause = f"server {run.name!r} ended without being told to{reason}", error
    if restarts is not None and restarts.total and error is not None:
        text += f"; it was started again {restarts} already, which is as often as it may be"
    failure = ServerFailing(text)
    failure.__cause__ = cause
    return failure
