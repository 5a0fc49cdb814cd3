"""The arbiter: gunicorn's, with processes that differ, and reloads that either happen or do not."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from gunicorn import arbiter
from gunicorn.errors import HaltServer
from gunicorn.pidfile import Pidfile

from .. import __version__
from ..control.run_dir import RunDir
from .activation import activated
from .backoff import Backoff
from .front_keeper import FrontKeeper
from .listeners import Listener, open_listeners
from .notifying import Notifier
from .pid_files import check_pid_file, remove_pid_file
from .planning import Plan
from .reloading import Reload
from .worker import FRONT, MONITOR, SINGLE, WORKER, Worker, set_title

if TYPE_CHECKING:
    from collections.abc import Collection

    from .application import Application

__all__ = ["Arbiter"]

_SECOND = "GUNICORN_PID"  # is set in the environment of a second arbiter, as long as there is the first one
_OF_SECOND = ".2"  # what gunicorn adds to the names of a second arbiter
_RUN_DIR = "DPLOYLIB_RUN_DIR"
_LISTENERS = "DPLOYLIB_LISTENERS"
_TICK = 1.0  # seconds, the most that the arbiter waits
_CLOSING_TIME = 10.0  # seconds that a process has for its end after the graceful timeout, before it is killed
_QUICK_TIME = 5.0  # the same where it is to end at once
_SIGNALS = (*arbiter.Arbiter.SIGNALS, signal.SIGCHLD)
_FAILED = 1  # the exit status of a daemon whose workers cannot run


class Arbiter(arbiter.Arbiter):
    """Keeps the processes of a daemon alive.

    It differs from gunicorn's in what it starts: workers, the process of the servers of which there is one, and the
    front; and in how it reloads: what fails changes nothing, and new workers are ready before old ones stop.
    """

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.app: Any = app
        self.WORKERS: dict[int, Worker] = {}
        self.LISTENERS: list[Listener] = []
        self.reexec_pid = 0
        self.plan: Plan = app.plan
        self.generation = 1
        self.started = time.time()
        self.listeners: dict[str, Listener] = {}
        self.run_dir: RunDir
        self.front = FrontKeeper(self, app.plan)
        self.notifier = Notifier(self.log)
        self._reload: Reload | None = None
        self._changed: set[tuple[str, int]] = set()  # files of the code, with the time: each worker tells of it
        self._again = False  # a reload was asked for while another one was going on
        self._backoff = Backoff()
        self._is_up = False
        self._wakeup, self._wakes = os.pipe()
        for end in (self._wakeup, self._wakes):
            os.set_blocking(end, False)

    # Its start -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open what listens, or take it over: from who was here before, or from systemd. Raises `AddressInUse`."""
        if self.cfg.settings["umask"].get():
            os.umask(self.cfg.umask)
        if self.cfg.pidfile is not None:
            check_pid_file(self.cfg.pidfile + (_OF_SECOND if _SECOND in os.environ else ""))
        self.run_dir = self._make_run_dir()
        try:
            self.plan = self.app.plan = self.front.plan = self.plan.with_backends(self.run_dir.path)
            given = json.loads(os.environ.pop(_LISTENERS, "{}"))
            if not given:
                given, self.systemd = activated(self.plan.listening, self.log)
            self.listen(self.plan, given)
            for key in given.keys() - self.listeners.keys():  # of endpoints that are no more
                os.close(given[key])
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Let nothing be left of what could not start."""
        self._stop_listening_at_all()
        if self.pidfile is not None:
            self.pidfile.unlink()

    def _make_run_dir(self) -> RunDir:
        inherited = os.environ.pop(_RUN_DIR, "")
        if inherited:
            return RunDir.inherited(inherited)
        return RunDir.make(self.cfg.proc_name, (self.cfg.uid, self.cfg.gid), self.plan.daemon.run_dir)

    def listen(self, plan: Plan, given: dict[str, int] | None = None) -> None:
        """Open what is to listen by this plan and does not, or take what is given of it. Raises `AddressInUse`."""
        owner = self.cfg.uid, self.cfg.gid
        wanted = [one for one in plan.listening if one.key not in self.listeners]
        self.listeners = self.listeners | open_listeners(wanted, given or {}, self.cfg.backlog, owner)
        self.LISTENERS = list(self.listeners.values())

    def stop_listening(self, keys: Collection[str]) -> None:
        """Close those of what listens that have these keys."""
        for key in keys:
            self.listeners[key].close()
        self.listeners = {key: listener for key, listener in self.listeners.items() if key not in keys}
        self.LISTENERS = list(self.listeners.values())

    def start(self) -> None:
        """Begin: take signals, and write the pid file."""
        self.log.info("starting dploylib, with gunicorn %s", arbiter.__version__)
        self._stats["start_time"] = time.time()
        if _SECOND in os.environ:
            self.master_pid = int(os.environ[_SECOND])
            self.proc_name += _OF_SECOND
            os.environ.pop("GUNICORN_FD", None)
        self.master_name = self.proc_name  # as it is called where it is logged
        self.pid = os.getpid()
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self.init_signals()  # before anybody can read where to send them
        if self.cfg.pidfile is not None:
            self.pidfile = Pidfile(self.cfg.pidfile + (_OF_SECOND if self.master_pid else ""))
            self.pidfile.create(self.pid)
        self.cfg.on_starting(self)
        for listener in self.LISTENERS:
            self.log.info("%s", listener)

    def _became_ready(self) -> None:
        self._is_up = True
        self.log.info("ready: %s", self._summary())
        self.cfg.when_ready(self)

    def _summary(self) -> str:
        ready = sum(worker.role == WORKER and worker.state == "ready" for worker in self.WORKERS.values())
        one = f", 1 process with {', '.join(self.plan.single)}" if self.plan.single else ""
        front = ", 1 front" if self.plan.lanes else ""
        workers = f"{ready} of {self.wanted(WORKER)} workers" if self.plan.shared else "no workers"
        return f"{workers}{one}{front}"

    # Its loop --------------------------------------------------------------------------------------------------

    def wait_for_signals(self, timeout: float | None = _TICK) -> list[int]:
        """Wait for a signal, or for what a process says."""
        sources: list[Any] = [self._wakeup, *(worker.hears for worker in self.WORKERS.values())]
        sources += self.front.sources
        if self._reload is not None:
            sources += self._reload.sources
        if self.notifier.interval is not None:
            timeout = min(timeout or 0.0, self.notifier.interval)
        with contextlib.suppress(InterruptedError):
            select.select(sources, [], [], timeout)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wakeup, 4096):
                pass
        return [number for number in super().wait_for_signals(timeout=0) if number in self.SIG_NAMES]

    def wakeup(self) -> None:
        """Let the loop go round."""
        super().wakeup()
        with contextlib.suppress(BlockingIOError):
            os.write(self._wakes, b"\0")

    def manage_workers(self) -> None:
        """See to it that there are the processes that there should be."""
        set_title("arbiter", self.proc_name)
        for worker in self.WORKERS.values():
            worker.hear()
        self.front.keep()
        self._go_on_reloading()
        for role in (MONITOR, WORKER, SINGLE):  # who asks whether it is ready is to be answered from the beginning
            self._keep(role)
        self._kill_overdue()
        self._write_status()  # before anybody is told to look
        if not self._is_up and self._is_ready():
            self._became_ready()
        self._tell_systemd()

    def wanted(self, role: str) -> int:
        """How many processes of a role there should be."""
        if role == WORKER:
            return self.num_workers if self.plan.shared else 0
        if role == MONITOR:
            return 1 if self.plan.http else 0
        return 1 if self.plan.single and self.num_workers else 0

    def of(self, role: str) -> list[Worker]:
        """The processes of a role, the oldest first."""
        return sorted((worker for worker in self.WORKERS.values() if worker.role == role), key=lambda one: one.age)

    def current(self, role: str) -> list[Worker]:
        """Those of them that are to stay."""
        return [
            worker
            for worker in self.of(role)
            if self._is_up_to_date(worker) and worker.told_at is None and not worker.spent
        ]

    def _is_up_to_date(self, worker: Worker) -> bool:
        """Whether a process is what it would be if it was started now. What a monitor remembers outlives reloads."""
        if worker.role == MONITOR:
            return worker.plan.http == self.plan.http
        return worker.generation == self.generation

    def _keep(self, role: str) -> None:
        """Let there be as many processes of this role as are wanted: new ones are ready before old ones stop.

        Of the role SINGLE there is never more than one, not even for a moment.
        """
        wanted, current = self.wanted(role), self.current(role)
        others = [worker for worker in self.of(role) if worker not in current]
        if role == SINGLE and others:
            if not wanted or self._reload is None or not self._reload.holds_single:
                self.tell_to_stop(others)
            return
        missing = wanted - len(current)
        if missing > 0:
            for _ in range(missing):
                if self.may_start:
                    self.spawn(role)
        elif missing < 0:
            current.sort(key=lambda one: one.state == "ready")  # who is not is missed by nobody
            self.tell_to_stop(current[:-missing])
        if others and self._reload is None and self.has_ready(role):
            self.tell_to_stop(others)

    def has_ready(self, role: str) -> bool:
        """Whether as many processes of this role are ready as there should be."""
        return sum(worker.state == "ready" for worker in self.current(role)) >= self.wanted(role)

    def _is_ready(self) -> bool:
        return (self.front.is_there or not self.plan.lanes) and all(map(self.has_ready, (WORKER, SINGLE, MONITOR)))

    @property
    def may_start(self) -> bool:
        """Whether a process may be started in place of one that has ended; False for a while, if many do."""
        return self._backoff.is_over

    def tell_to_stop(self, workers: list[Worker]) -> None:
        """Let these processes finish what they do, and end."""
        for worker in workers:
            if worker.told_at is None:
                if worker.spent:
                    self.log.info("worker %d is replaced: %s", worker.pid, worker.spent)
                worker.told_at = time.monotonic()
                self.kill_worker(worker.pid, signal.SIGTERM)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for worker in list(self.WORKERS.values()):
            if worker.told_at is not None and now - worker.told_at > self.cfg.graceful_timeout + _CLOSING_TIME:
                self.log.error("worker %d has not stopped in time, and is killed", worker.pid)
                self.kill_worker(worker.pid, signal.SIGKILL)

    # Processes -------------------------------------------------------------------------------------------------

    def spawn(self, role: str) -> None:
        """Start a process of this role."""
        self.worker_age += 1
        worker: Worker = self.worker_class(
            self.worker_age, self.pid, self.LISTENERS, self.app, self.timeout / 2, self.cfg, self.log
        )
        worker.role, worker.generation, worker.plan = role, self.generation, self.plan
        worker.listeners, worker.run_dir = self.listeners, self.run_dir.path
        worker.born = time.monotonic()
        worker.notify()  # so that its start has its time, too
        self.cfg.pre_fork(self, worker)
        # A signal that came before the process can take it would be one to the arbiter that it still is.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError as error:  # too many, or no memory
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            worker.forget()
            self.log.error("a %s cannot be started: %s; trying again in %.1f s", role, error, self._backoff.next(0))
            return
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            worker.pid = pid
            worker.in_arbiter()
            self.WORKERS[pid] = worker
            self._stats["workers_spawned"] += 1
            return
        self._become(worker)

    def _become(self, worker: Worker) -> NoReturn:
        """Be a process of the daemon, in the child, to its end: `SystemExit`, which the arbiter's loop lets through."""
        try:
            self._be(worker)
        except SystemExit:
            raise
        except BaseException:
            self.log.exception("%s %d failed", worker.role, worker.pid)
            sys.exit(_FAILED)

    def _be(self, worker: Worker) -> NoReturn:
        signal.set_wakeup_fd(-1)
        for end in (self._wakeup, self._wakes):
            os.close(end)
        self.front.lose()
        self.run_dir.let_go()
        for sibling in self.WORKERS.values():
            sibling.forget()
        worker.pid = os.getpid()
        set_title(worker.role, self.proc_name)
        self.log.info("%s %d starts", worker.role, worker.pid)
        try:
            self.cfg.post_fork(self, worker)
            worker.init_process()
            sys.exit(0)
        finally:
            self.log.info("%s %d ends", worker.role, worker.pid)
            worker.forget()
            self.cfg.worker_exit(self, worker)

    def reap_workers(self) -> None:
        """Take note of the processes that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                if pid == self.reexec_pid:
                    self.reexec_pid = 0
                    self.run_dir.forget(pid)
                    if self.cfg.pidfile is not None:
                        remove_pid_file(self.cfg.pidfile + _OF_SECOND, pid)
                    self.log.warning("the new arbiter %d has ended", pid)
                    with contextlib.suppress(OSError):  # the front may be as the other one wanted it
                        self.front.configure()
                    continue
                if self._reload is not None and self._reload.reaped(pid, status):
                    continue
                worker = self.WORKERS.pop(pid, None)
                if worker is not None:
                    worker.hear()
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        expected = worker.told_at is not None and code in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGQUIT)
        (self.log.debug if expected else self.log.error)("%s %d %s", worker.role, worker.pid, how)
        was_ready = worker.report["state"] == "ready"
        worker.forget()
        self.cfg.child_exit(self, worker)
        if worker.role == FRONT and code:
            self.front.lose()
        if expected or worker.told_at is not None:
            return
        if self._reload is not None and worker.role != FRONT and self._reload.lost(worker, how):
            return
        if not self._is_up and not was_ready:
            status = worker.report.get("status", _FAILED)
            raise HaltServer(f"{worker.role} {worker.pid} could not start: it {how}", status)
        seconds = self._backoff.next(time.monotonic() - worker.born)
        if seconds:
            self.log.warning("processes end soon after their start: the next one is started in %.1f s", seconds)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a process, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
            self._stats["workers_killed"] += sig in (signal.SIGTERM, signal.SIGKILL)

    def murder_workers(self) -> None:
        """Replace the processes whose hub does not run."""
        super().murder_workers()
        for worker in list(self.WORKERS.values()):
            if worker.aborted and worker.role == WORKER:
                worker.report["spent"] = worker.report.get("spent") or "it was blocked"

    # Signals ---------------------------------------------------------------------------------------------------

    def handle_hup(self) -> None:
        """SIGHUP: reload."""
        self.reload()

    def handle_usr1(self) -> None:
        """SIGUSR1: open the log files again, in all processes."""
        super().handle_usr1()
        self.front.reopen_logs()

    def handle_ttin(self) -> None:
        """SIGTTIN: one worker more."""
        self.num_workers += 1
        self.log.info("%d workers", self.num_workers)

    def handle_ttou(self) -> None:
        """SIGTTOU: one worker less."""
        if self.num_workers > 1:
            self.num_workers -= 1
            self.log.info("%d workers", self.num_workers)

    def handle_winch(self) -> None:
        """SIGWINCH: no workers any more, if it is a daemon; the arbiter stays."""
        if self.cfg.daemon:
            self.log.info("stopping the workers")
            self.num_workers = 0

    # Reloading -------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Begin to reload: have the configuration and the code checked."""
        if self._reload is not None:
            self._again = True
            self.log.info("reloading once more when this reload is over")
            return
        self._stats["reloads"] += 1
        self.log.info("reloading: checking the configuration and the code")
        self._reload = Reload(self)
        self._tell_systemd()

    def _go_on_reloading(self) -> None:
        changed = {tuple(one.report.pop("changed")) for one in self.WORKERS.values() if "changed" in one.report}
        if changed - self._changed:
            self.log.info("%s changed", ", ".join(sorted(file for file, _ in changed - self._changed)))
            self._changed |= changed
            self.reload()
        if self._reload is not None and self._reload.go_on():
            self._reload = None
            if self._again:
                self._again = False
                self.reload()

    # A second arbiter, and the end ------------------------------------------------------------------------------

    def reexec(self) -> None:
        """Start another arbiter beside this one, which takes over what listens, and the front."""
        for listener in self.LISTENERS:
            os.set_inheritable(listener.fileno(), True)
        handed_over = {key: listener.fileno() for key, listener in self.listeners.items()}
        # As it was called: by -m, and with the options of the interpreter.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        try:
            with self.run_dir.handed_over() as run_dir:
                self.cfg.env_orig |= {_LISTENERS: json.dumps(handed_over), _RUN_DIR: run_dir}
                super().reexec()
            if self.reexec_pid:
                self.run_dir.expect(self.reexec_pid)
        except Exception:
            self.log.exception("a new arbiter could not be started")
            if os.getpid() != self.pid:  # the child: what there is to clean up is not its own
                os._exit(_FAILED)
        for listener in self.LISTENERS:
            os.set_inheritable(listener.fileno(), False)

    def maybe_promote_master(self) -> None:
        """Become the only one, when the arbiter before this one has ended."""
        first = self.master_pid
        if first and first != os.getppid():
            self.run_dir.forget(first)
            if self.cfg.pidfile is not None:
                remove_pid_file(self.cfg.pidfile, first)
        super().maybe_promote_master()
        if first and not self.master_pid:
            self.master_name = self.proc_name
            for listener in self.LISTENERS:
                listener.own()
            # systemd has noted that we are no child of its own, as we were not then, and would wait for nobody when it
            # stops us. It looks again only when the main process is another one.
            self.notifier.hand_over(*list(self.WORKERS)[:1], self.pid)

    def stop(self, graceful: bool = True) -> None:
        """Stop the processes: running handlers have the graceful timeout, if it is to be graceful."""
        self.maybe_promote_master()  # it may be a moment since the arbiter before this one has ended
        if self.reexec_pid:  # that one goes on, and to systemd, so does the service
            self.notifier.hand_over(self.reexec_pid)
        else:
            self._tell_systemd("STOPPING=1\nSTATUS=stopping")
        self._write_status("stopping")
        self._end_processes(graceful)
        self._stop_listening_at_all()

    def _stop_listening_at_all(self) -> None:
        """Close what listens; and remove its files, and the run directory, unless there is another arbiter."""
        self.maybe_promote_master()  # the other one may have ended meanwhile
        last = self.run_dir.leave()
        for listener in self.LISTENERS:
            if last and not self.systemd:
                listener.own()
            listener.close(unlink=last and not self.systemd)
        self.LISTENERS, self.listeners = [], {}
        self.run_dir.remove(last)

    def _end_processes(self, graceful: bool) -> None:
        if self._reload is not None:
            self._reload.close()
            self._reload = None
        self.front.release()
        until = time.monotonic() + (self.cfg.graceful_timeout + _CLOSING_TIME if graceful else _QUICK_TIME)
        self._tell_all(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < until:
            if all(worker.role == MONITOR for worker in self.WORKERS.values()):  # which tells how the others stop
                self._tell_all(signal.SIGTERM, MONITOR)
            for number in self.wait_for_signals(0.1):
                if graceful and number in (signal.SIGINT, signal.SIGQUIT):
                    self.log.info("stopping at once")
                    graceful = False
                    until = time.monotonic() + _QUICK_TIME
                    self._tell_all(signal.SIGQUIT)
            self.reap_workers()
        for worker in self.WORKERS.values():
            self.log.error("%s %d has not stopped in time, and is killed", worker.role, worker.pid)
        self.kill_workers(signal.SIGKILL)
        while self.WORKERS:
            self.reap_workers()
            time.sleep(0.01)

    def _tell_all(self, number: signal.Signals, *roles: str) -> None:
        for worker in [one for one in self.WORKERS.values() if one.role in (roles or (WORKER, SINGLE, FRONT))]:
            if worker.told_at is None or not roles:
                worker.told_at = worker.told_at or time.monotonic()
                self.kill_worker(worker.pid, number)

    # What it says ----------------------------------------------------------------------------------------------

    def _tell_systemd(self, state: str = "") -> None:
        """Say how the service is, and that it lives. While there are two arbiters, the first one says how it is."""
        if not state:
            if self._reload is not None:
                state = "RELOADING=1\nSTATUS=reloading"
            elif self._is_up:
                state = f"READY=1\nSTATUS={self._summary()}"
            else:
                state = "STATUS=starting"
        if not self.master_pid:
            self.notifier.say(state)
        self.notifier.feed()

    def _write_status(self, state: str = "") -> None:
        """Write what `dploylib status` reads."""
        if not state:
            state = "reloading" if self._reload is not None else "ready" if self._is_ready() else "starting"
        status = {
            "name": self.cfg.proc_name,
            "mode": "serve",
            "version": __version__,
            "pid": self.pid,
            "predecessor": self.master_pid or None,
            "successor": self.reexec_pid or None,
            "state": state,
            "started": self.started,
            "written": time.time(),
            "generation": self.generation,
            "reloads": self._stats["reloads"],
            "endpoints": {str(one.listening.owner): one.endpoint for one in self.LISTENERS},
            "workers": [
                {
                    "pid": worker.pid,
                    "role": worker.role,
                    "generation": worker.generation,
                    "age": round(time.monotonic() - worker.born, 1),
                    **worker.report,
                    "state": worker.state,
                }
                for worker in self.WORKERS.values()
            ],
            "front": self.front.status(),
        }
        self.run_dir.write_status(status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
