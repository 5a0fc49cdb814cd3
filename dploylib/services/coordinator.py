"""Coordinators: what spawns the servers of a service, watches them and stops them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping

import gevent
from gevent.event import AsyncResult, Event

from ..config import Settings
from ..errors import ServerFailing, ServiceStateError, SocketClosed
from ..servers import GRACEFUL_TIMEOUT, Server
from ..servers.control import Stop, control_topic
from ..transport import Context, Socket

__all__ = ["GreenletServerCoordinator", "ServerCoordinator", "ServerRun"]

log = logging.getLogger(__name__)

_CLOSING_TIME = 3.0  # seconds that a server has for closing after its graceful timeout, before it is killed
_SUBSCRIBED = b"\x01"  # the first byte of what an XPUB receives when somebody subscribes


class ServerRun:
    """One run of a server, from its start to its end.

    `ready` is set once the server has its sockets and is set up; `ended` once it is over, and `error` is why, if it was
    not told to stop.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.name = server.name
        self.ready = Event()
        self.ended = Event()
        self.error: BaseException | None = None


class ServerCoordinator:
    """Spawns servers, notices when one dies, and stops them. Subclasses say where a server runs: `spawn` and `kill`.

    `control_uri` is the endpoint of the control socket, which carries the stop to the servers: an inproc one of its
    own, unless given. `context` is the context that the servers get; without one, each start makes a new one and the
    stop closes it.
    """

    def __init__(self, control_uri: str | None = None, context: Context | None = None) -> None:
        self._control_uri = control_uri or f"inproc://control-{id(self):x}"
        self._given_context = context
        self._context: Context | None = None
        self._control: Socket | None = None
        self._watcher: gevent.Greenlet[[Socket], None] | None = None
        self._prepare()

    def _prepare(self) -> None:
        """Forget the run before: a coordinator may be used again."""
        self._runs: dict[str, ServerRun] = {}
        self._outcome: AsyncResult[None] = AsyncResult()
        self._stopping = False
        self._stopped = Event()

    # What a subclass decides -----------------------------------------------------------------------------------

    def spawn(self, run: ServerRun) -> None:
        """Let `run.server.start()` run somewhere, and see to it that `server_ended(run, error)` is called after it."""
        raise NotImplementedError(f"{type(self).__name__} must say in spawn() where a server runs")

    def kill(self, run: ServerRun) -> None:
        """End a server that is not ready, or did not stop when it was told to. Does not wait for that."""
        raise NotImplementedError(f"{type(self).__name__} must say in kill() how a server is ended")

    def server_ended(self, run: ServerRun, error: BaseException | None) -> None:
        """To be called in this thread's hub when a server has ended, with what it raised."""
        if run.ended.is_set():  # it was given up, but came to its end after all
            return
        run.error = error
        run.ended.set()
        if not self._stopping and not self._outcome.ready():
            if run.ready.is_set():  # else start() raises it
                log.error("server %s died", run.name, exc_info=error)
            self._outcome.set_exception(_as_failure(run))

    # What they share -------------------------------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """The context of the servers. Raises `ServiceStateError` before the start."""
        if self._context is None:
            raise ServiceStateError("there is no context before the service is started")
        return self._context

    @property
    def servers(self) -> dict[str, Server]:
        """The servers by name."""
        return {name: run.server for name, run in self._runs.items()}

    def setup_servers(self, servers: Mapping[str, type[Server]], settings: Settings) -> None:
        """Make the control socket and the servers, each with its part of the settings. `stop` undoes it."""
        self._prepare()
        self._context = context = self._given_context or Context.new()
        self._control = Socket.bind_new("xpub", self._control_uri, context=context)
        control_uri = self._control.endpoint
        self._runs = {
            name: ServerRun(server_cls(name, settings.server_settings(name), control_uri, context))
            for name, server_cls in servers.items()
        }

    def start(self) -> None:
        """Spawn the servers, and return when all are ready. If one is not, stop them all and raise why.

        Raises `ServiceStateError` when `stop` is called meanwhile.
        """
        try:
            self._check_not_stopped()
            if self._control is None:
                raise ServiceStateError("setup_servers() comes before start()")
            self._watcher = gevent.spawn(self._watch_readiness, self._control)
            self._watcher.name = "watch the control socket"
            for run in self._runs.values():
                log.debug("spawning server %s", run.name)
                self.spawn(run)
                self._check_not_stopped()
            self._wait_until_ready()
        except BaseException:
            if self._stopping:
                self._stopped.wait()
            else:
                self.stop(graceful_timeout=0)
            raise

    def wait(self) -> None:
        """Return when the servers have been stopped. Raises `ServerFailing` as soon as one died."""
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

    def _end_servers(self, graceful_timeout: float) -> None:
        for run in self._alive():
            if run.ready.is_set() and self._control is not None:
                self._control.send_obj(Stop(graceful_timeout), id=control_topic(run.name))
            else:
                self.kill(run)
        gevent.wait([run.ended for run in self._alive()], timeout=graceful_timeout + _CLOSING_TIME)
        for run in self._alive():
            log.error("server %s did not stop within %g s, and is killed", run.name, graceful_timeout + _CLOSING_TIME)
            self.kill(run)
        gevent.wait([run.ended for run in self._alive()], timeout=_CLOSING_TIME)
        for run in self._alive():
            log.error("server %s goes on although it was killed; its sockets are closed", run.name)
            self.server_ended(run, None)

    def _close(self) -> None:
        try:
            control, self._control = self._control, None
            if control is not None:
                if self._watcher is not None:
                    self._watcher.kill()
                control.close(linger=0)
            if self._given_context is None and self._context is not None:
                self._context.close()
        finally:
            self._stopped.set()
            if not self._outcome.ready():
                self._outcome.set(None)

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
                    raise run.error if isinstance(run.error, Exception | SystemExit) else _as_failure(run)
            if all(run.ready.is_set() for run in runs):
                return

    def _watch_readiness(self, control: Socket) -> None:
        topics = {control_topic(run.name).encode(): run for run in self._runs.values()}
        with contextlib.suppress(SocketClosed):  # somebody closed the context that was given
            while control.wait_readable():
                event = b"".join(control.receive_frames())
                run = topics.get(event[1:])
                if run is not None and event.startswith(_SUBSCRIBED):
                    run.ready.set()


class GreenletServerCoordinator(ServerCoordinator):
    """Runs each server in a greenlet of this thread."""

    def __init__(self, control_uri: str | None = None, context: Context | None = None) -> None:
        super().__init__(control_uri, context)
        self._greenlets: dict[ServerRun, gevent.Greenlet[[ServerRun], BaseException | None]] = {}

    def spawn(self, run: ServerRun) -> None:
        """Run the server in a greenlet."""
        greenlet = self._greenlets[run] = gevent.Greenlet(_serve, run)
        greenlet.name = f"server {run.name}"
        greenlet.link(lambda _: self._ended(run))  # which comes too when it is killed before it began
        greenlet.start()

    def kill(self, run: ServerRun) -> None:
        """Kill the server's greenlet."""
        if run in self._greenlets:
            run.server.stop(0)  # so that the handlers that run know what happens, and tell their callers
            self._greenlets[run].kill(block=False)
        else:
            self.server_ended(run, None)  # it was never spawned

    def _ended(self, run: ServerRun) -> None:
        greenlet = self._greenlets.pop(run)
        self.server_ended(run, greenlet.exception or greenlet.value)


def _serve(run: ServerRun) -> BaseException | None:
    """Run a server to its end, and return what it raised."""
    try:
        run.server.start()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - wait() raises it
        return error
    return None


def _as_failure(run: ServerRun) -> ServerFailing:
    if isinstance(run.error, ServerFailing):
        return run.error
    reason = "" if run.error is None else f": {run.error!r}"
    failure = ServerFailing(f"server {run.name!r} ended without being told to{reason}")
    failure.__cause__ = run.error
    return failure
