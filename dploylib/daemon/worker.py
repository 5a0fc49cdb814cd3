"""The processes that gunicorn's arbiter starts: workers, which run the service, and the front."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from gunicorn import util
from gunicorn.workers import base

from ..control.memory import resident_memory
from ..errors import AddressInUse, ServiceStateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Placement
    from .listeners import Listener
    from .planning import Plan

__all__ = ["FRONT", "MONITOR", "SINGLE", "WORKER", "Code", "Worker", "front_control", "set_title"]

log = logging.getLogger(__name__)

WORKER = "worker"
"""The role of a process that runs the servers that several run."""
SINGLE = "single"
"""That of the process with the servers of which there is one."""
FRONT = "front"
"""That of the process that has the connections."""
MONITOR = "monitor"
"""That of the process with the HTTP side of the service."""

_REPORTING = 1.0  # seconds between two reports
_SHORTEST_BEAT = 0.05
_STARTING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
_IGNORED_SIGNALS = ("SIGHUP", "SIGUSR2", "SIGTTIN", "SIGTTOU", "SIGWINCH")


class Code(Protocol):
    """What of the user's a worker runs."""

    @property
    def origin(self) -> tuple[str, str]:
        """What it is, and where its configuration is."""

    def prepare(self) -> None:
        """Do what comes before the user's code is imported: patch the standard library, if it is to be."""

    def load(self) -> Any:
        """Import the user's code, and return the service."""

    def start(self, service: Any) -> None:
        """Start the service with its configuration."""

    def tell(self, error: Exception) -> int:
        """Log why it cannot run, and return the exit status that says so."""


class Worker(base.Worker):
    """A process of a daemon: what it is to the arbiter, and, after the fork, what it does.

    `role` is WORKER, SINGLE, FRONT or MONITOR. `generation` counts reloads. `report` has what it said last.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.role = WORKER
        self.generation = 0
        self.plan: Plan
        self.listeners: Mapping[str, Listener] = {}
        self.run_dir = ""
        self.report: dict[str, Any] = {"state": "starting"}
        self.alive = True
        self.told_at: float | None = None  # when it was told to stop, on the clock of time.monotonic
        self.born = 0.0
        self.hears, self._says = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.hears.setblocking(False)
        self._says.setblocking(False)
        self._state = "starting"
        self._service: Any = None
        self._is_told = False  # by a signal, to stop

    # Seen from the arbiter -------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """What it is doing: starting, ready, or leaving."""
        return "leaving" if self.told_at is not None else str(self.report["state"])

    @property
    def spent(self) -> str:
        """Why it should be replaced, '' when it need not be."""
        return str(self.report.get("spent", ""))

    def hear(self) -> None:
        """Take what the process has said."""
        try:
            while said := self.hears.recv(65536):
                self.report |= json.loads(said)
        except OSError:  # nothing more
            pass

    def in_arbiter(self) -> None:
        """After the fork, in the arbiter."""
        self._says.close()

    def forget(self) -> None:
        """Let go of what belongs to the process: it has ended, or this is another one."""
        self.tmp.close()
        self.hears.close()
        self._says.close()

    # In the process --------------------------------------------------------------------------------------------

    def init_process(self) -> None:
        """Become the process, and run. Returns when it has stopped; raises `SystemExit` when it failed."""
        self.hears.close()
        self._stop_listening_for_others()
        if "gevent" in sys.modules:  # the user's code was loaded before the fork
            import gevent

            gevent.reinit()
        self._take_signals()
        for key, value in self.cfg.env.items():
            os.environ[key] = value
        util.set_owner_process(self.cfg.uid, self.cfg.gid, initgroups=self.cfg.initgroups)
        util.seed()
        self.log.close_on_exec()
        if self.role == FRONT:
            self._run_front()
            return
        code: Code = self.app.code
        try:
            if self.role == MONITOR:
                self._run_monitor()
                return
            code.prepare()
            self._service = self.app.wsgi()
            self.cfg.post_worker_init(self)
            self.booted = True
            self.run()
        except Exception as error:  # noqa: BLE001 - whatever it is, the arbiter is told
            status = code.tell(error)
            self._state = "failed"
            self._say(status=status)
            sys.exit(status)

    def _stop_listening_for_others(self) -> None:
        """Close what listens that is not for this process, in which it would be open for longer than it should.

        The front is passed what it needs, for as long as it needs it.
        """
        here = {WORKER: self.plan.shared, SINGLE: self.plan.single}.get(self.role, [])
        fronted = {lane.name for lane in self.plan.lanes}
        mine = {
            one.key for one in self.plan.listening if one.owner.partition(".")[0] in here and one.owner not in fronted
        }
        for key, listener in self.listeners.items():
            if key not in mine:
                listener.close(unlink=False)
        self.listeners = {key: listener for key, listener in self.listeners.items() if key in mine}

    def _take_signals(self) -> None:
        """End by signals, until there is something to stop."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for name in _IGNORED_SIGNALS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        if self.role == FRONT:  # it ends when nobody needs it any more
            for number in _STARTING_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        else:  # which must not end it, and be why a reload fails
            signal.signal(signal.SIGUSR1, lambda *_: self.log.reopen_files())
        signal.signal(signal.SIGABRT, self._abort)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _abort(self, number: int, frame: FrameType | None) -> None:
        """The arbiter says that the hub is blocked."""
        stack = "".join(traceback.format_stack(frame)).rstrip() if frame is not None else ""
        log.critical(
            "SIGABRT, as it comes when nothing else ran for more than %g s: the worker is ended\n%s",
            self.cfg.timeout,
            stack,
        )
        self.cfg.worker_abort(self)
        logging.shutdown()
        os._exit(1)

    def run(self) -> None:
        """Run the service until it is to stop."""
        from ..services import watch_for_blocking
        from ..services.signals import on_signals

        service = self._service
        service.graceful_timeout = self.cfg.graceful_timeout
        service.placement = self._placement()
        service.name = self.cfg.proc_name
        service.exports_traces = True
        self._begin_to_live()
        with (
            self._control(),
            on_signals(_STARTING_SIGNALS, self._on_signal),
            watch_for_blocking(service.max_blocking or 1.0),
        ):
            try:
                self.app.code.start(service)
            except ServiceStateError:
                if self._is_told:  # to stop, while it started
                    return
                raise
            self._state = "ready"
            self._report()
            try:
                service.wait()
            finally:
                service.stop()

    def _control(self) -> contextlib.AbstractContextManager[Any]:
        """The control server of this process. What the service is told, the arbiter is."""
        from ..control.local import Local
        from ..control.server import Control, Subject

        def stop(graceful_timeout: float | None) -> None:
            os.kill(self.ppid, signal.SIGTERM if graceful_timeout is None or graceful_timeout else signal.SIGQUIT)

        local = Local(self._service, self.cfg.proc_name, self.role)
        subject = Subject(local, stop, lambda: os.kill(self.ppid, signal.SIGHUP), *self.app.code.origin)
        return Control(subject, self.run_dir, leaves=True)

    def _placement(self) -> Placement:
        """Which servers run here, and where their sockets are."""
        from ..config import Place, Placement

        fronted = {(lane.server, lane.socket): Place(front=lane.backend) for lane in self.plan.lanes}
        descriptors: dict[tuple[str, str], dict[str, int]] = {}
        for listener in self.listeners.values():
            server, _, name = listener.listening.owner.partition(".")
            descriptors.setdefault((server, name), {})[listener.uri] = listener.fileno()
        places = {owner: Place(descriptors=mine) for owner, mine in descriptors.items()} | fronted
        return Placement(frozenset(self.plan.single if self.role == SINGLE else self.plan.shared), places)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGUSR1:
            self.log.reopen_files()
            return
        self._is_told = True
        if number == signal.SIGTERM:
            self._service.stop()
        else:
            self.cfg.worker_int(self)
            self._service.stop(0)

    def _begin_to_live(self) -> None:
        """From now on the hub says again and again that it runs."""
        import gevent

        from ..services.logs import log_all_by
        from ..transport.spawning import spawn_named

        for handler in logging.getLogger().handlers:
            log_all_by(handler)
        self._beat = max(_SHORTEST_BEAT, min(_REPORTING, self.cfg.timeout / 4 or _REPORTING))
        self.notify()
        spawn_named("heartbeat", self._live, gevent.sleep)
        if self.cfg.reload:
            self._watch_code()

    def _live(self, sleep: Any) -> None:
        due = 0.0
        while True:
            if self._service is None or self._service.coordinator.hubs_have_run():
                self.notify()
            due -= self._beat
            if due <= 0:
                due = _REPORTING
                self._report()
            sleep(self._beat)
            if os.getppid() != self.ppid and self.alive and self.role != FRONT:
                self.alive = False
                log.warning("the arbiter %d is gone: stopping", self.ppid)
                self._leave_alone(sleep)

    def _leave_alone(self, sleep: Any) -> None:
        """Stop without having been told to."""
        if self._service is not None:
            import gevent

            gevent.spawn(self._service.stop)
        elif self.role == MONITOR:
            os.kill(self.pid, signal.SIGTERM)

    def _report(self) -> None:
        resident = resident_memory()
        if self._service is None:
            self._say(rss=resident)
            return
        counts = {
            f"{server.name}.{name}": {key: value for key in counts.NUMBERS if (value := getattr(counts, key))}
            for server in self._service.servers.values()
            for name, counts in server.counts.items()
        }
        received = sum(one.get("received", 0) for one in counts.values())
        spent = ""
        if received >= self.max_requests:
            spent = f"it has received {received} messages"
        elif self.cfg.max_memory and resident >= self.cfg.max_memory:
            spent = f"it uses {resident / 2**20:.0f} MiB of memory"
        self._say(rss=resident, counts=counts, restarts=self._service.restarts, spent=spent)

    def _say(self, **report: Any) -> None:
        """Tell the arbiter. What it does not hear, since it is busy or gone, the next report brings."""
        with contextlib.suppress(OSError):
            self._says.send(json.dumps({"state": self._state, **report}).encode())

    def _watch_code(self) -> None:
        from gunicorn.reloader import reloader_engines

        log.warning("code is watched, and loaded again when it changes: for development only")
        engine = reloader_engines[self.cfg.reload_engine]
        engine(extra_files=self.cfg.reload_extra_files, callback=self._note_change).start()

    def _note_change(self, file: str) -> None:
        """Tell the arbiter of a change of a file, by which time: gunicorn's polling engine says so again and again."""
        with contextlib.suppress(OSError):
            self._say(changed=[file, os.stat(file).st_mtime_ns])

    def _run_monitor(self) -> None:
        from gevent.event import Event

        from ..control.http import HTTPServer, listen
        from ..control.remote import Remote
        from ..services.signals import on_signals

        assert self.plan.http is not None
        stopped = Event()
        self.booted = True
        self._begin_to_live()
        with (
            on_signals(_STARTING_SIGNALS, lambda number: self._obey(number, stopped)),
            # Shared, with the one that takes its place, and that of a second arbiter.
            HTTPServer(Remote(self.run_dir, self.cfg.proc_name, keeps=True), listen(self.plan.http, shared=True)),
        ):
            self._state = "ready"
            self._report()
            stopped.wait()

    def _obey(self, number: signal.Signals, stopped: Any) -> None:
        if number == signal.SIGUSR1:
            self.log.reopen_files()
        else:
            stopped.set()

    def _run_front(self) -> None:
        from .front import Front

        self.booted = True
        self._begin_to_live()
        self._state = "ready"
        self._report()
        try:
            Front(front_control(self.run_dir), reopen_logs=self.log.reopen_files, name=self.cfg.proc_name).run()
        except AddressInUse as error:  # by that of an arbiter that was killed, which finishes what it has
            log.error("%s, and has not ended yet", error)
            sys.exit(1)


def set_title(role: str, name: str) -> None:
    """Let `ps` say which process this is."""
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"dploylib: {role} [{name}]")


def front_control(run_dir: str) -> str:
    """The path of the socket at which a front takes its orders."""
    return os.path.join(run_dir, "front")
