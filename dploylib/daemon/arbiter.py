"""The arbiter: gunicorn's, with processes that differ, and reloads that either happen or do not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from gunicorn import arbiter, systemd
from gunicorn.errors import HaltServer
from gunicorn.pidfile import Pidfile

from ..errors import DployError
from .activation import activated
from .backoff import Backoff
from .changes import Change, changes, kept
from .checking import Checking
from .front_owner import FrontOwner
from .lane import Lane
from .listeners import Listener, open_listeners
from .pid_files import check_pid_file, remove_pid_file
from .planning import Plan
from .run_dir import RunDir
from .worker import FRONT, SINGLE, WORKER, Worker, front_control, set_title

if TYPE_CHECKING:
    from .application import Application

__all__ = ["Arbiter"]

_SECOND = "GUNICORN_PID"  # is set in the environment of a second arbiter, as long as there is the first one
_RUN_DIR = "DPLOYLIB_RUN_DIR"
_LISTENERS = "DPLOYLIB_LISTENERS"
_TICK = 1.0  # seconds, the most that the arbiter waits
_CLOSING_TIME = 10.0  # seconds that a process has for its end after the graceful timeout, before it is killed
_QUICK_TIME = 5.0  # the same where it is to end at once
_READY_TIME = 60.0  # seconds that a process has to become ready, or those of a reload
_FRONT_TIME = 10.0  # seconds that a front has to take its orders
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
        self._listeners: dict[str, Listener] = {}
        self._run_dir: RunDir
        self._owner: FrontOwner | None = None
        self._reload: _Reload | None = None
        self._again = False  # a reload was asked for while another one was going on
        self._backoff = Backoff()
        self._announced = ""  # what systemd was told last
        self._is_up = False
        self._dogged = 0.0
        self._wakeup, self._wakes = os.pipe()
        for end in (self._wakeup, self._wakes):
            os.set_blocking(end, False)

    # Its start -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open what listens, or take it over: from who was here before, or from systemd. Raises `AddressInUse`."""
        if self.cfg.settings["umask"].get():
            os.umask(self.cfg.umask)
        if self.cfg.pidfile is not None:
            check_pid_file(self.cfg.pidfile + (".2" if _SECOND in os.environ else ""))
        self._run_dir = self._make_run_dir()
        try:
            self.plan = self.app.plan = with_backends(self.plan, self._run_dir.path)
            given = json.loads(os.environ.pop(_LISTENERS, "{}"))
            if not given:
                given, self.systemd = activated(self.plan.listening, self.log)
            self._open(self.plan, given)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Let nothing be left of what could not start."""
        alone = _SECOND not in os.environ
        for listener in self.LISTENERS:
            listener.close(unlink=alone and not self.systemd)
        self._run_dir.remove(last=alone)
        if self.pidfile is not None:
            self.pidfile.unlink()

    def _make_run_dir(self) -> RunDir:
        inherited = os.environ.pop(_RUN_DIR, "")
        if inherited:
            return RunDir.inherited(inherited)
        return RunDir.make(self.cfg.proc_name, (self.cfg.uid, self.cfg.gid), self.plan.daemon.run_dir)

    def _open(self, plan: Plan, given: dict[str, int]) -> None:
        owner = self.cfg.uid, self.cfg.gid
        wanted = [one for one in plan.listening if one.key not in self._listeners]
        self._listeners |= open_listeners(wanted, given, self.cfg.backlog, owner)
        self.LISTENERS = list(self._listeners.values())

    def start(self) -> None:
        """Begin: write the pid file, and take signals."""
        self.log.info("starting dploylib, with gunicorn %s", arbiter.__version__)
        self._stats["start_time"] = time.time()
        if "GUNICORN_PID" in os.environ:
            self.master_pid = int(os.environ["GUNICORN_PID"])
            self.proc_name += ".2"
            os.environ.pop("GUNICORN_FD", None)
        self.master_name = self.proc_name  # as it is called where it is logged
        self.pid = os.getpid()
        if self.cfg.pidfile is not None:
            self.pidfile = Pidfile(self.cfg.pidfile + (".2" if self.master_pid else ""))
            self.pidfile.create(self.pid)
        self.cfg.on_starting(self)
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        self.init_signals()
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
        workers = f"{ready} of {self._wanted(WORKER)} workers" if self.plan.shared else "no workers"
        return f"{workers}{one}{front}"

    # Its loop --------------------------------------------------------------------------------------------------

    def wait_for_signals(self, timeout: float | None = _TICK) -> list[int]:
        """Wait for a signal, or for what a process says."""
        sources: list[Any] = [self._wakeup, *(worker.hears for worker in self.WORKERS.values())]
        if self._owner is not None:
            sources.append(self._owner)
        if self._reload is not None and self._reload.checking is not None:
            sources.append(self._reload.checking)
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
        self._keep_front()
        self._further_reload()
        for role in (WORKER, SINGLE):
            self._keep(role)
        self._kill_overdue()
        if not self._is_up and self._is_ready():
            self._became_ready()
        self._tell_systemd()
        self._write_status()

    def _wanted(self, role: str) -> int:
        if role == WORKER:
            return self.num_workers if self.plan.shared else 0
        return 1 if self.plan.single and self.num_workers else 0

    def _of(self, role: str) -> list[Worker]:
        """The processes of a role, the oldest first."""
        return sorted((worker for worker in self.WORKERS.values() if worker.role == role), key=lambda one: one.age)

    def _current(self, role: str) -> list[Worker]:
        """Those of them that are to stay."""
        return [
            worker
            for worker in self._of(role)
            if worker.generation == self.generation and worker.told_at is None and not worker.spent
        ]

    def _keep(self, role: str) -> None:
        """Let there be as many processes of this role as are wanted: new ones are ready before old ones stop.

        Of the role SINGLE there is never more than one, not even for a moment.
        """
        wanted, current = self._wanted(role), self._current(role)
        others = [worker for worker in self._of(role) if worker not in current]
        if role == SINGLE:
            if others and (self._reload is None or not wanted):
                self._tell_to_stop(others)
            if others or self._reload is not None:
                return
        missing = wanted - len(current)
        if missing > 0 and self._backoff.is_over:
            for _ in range(missing):
                self._spawn(role)
        elif missing < 0:
            self._tell_to_stop(current[:-wanted] if wanted else current)
        if others and self._reload is None and sum(one.state == "ready" for one in current) >= wanted:
            self._tell_to_stop(others)

    def _is_ready(self) -> bool:
        if self.plan.lanes and self._owner is None:
            return False
        return all(
            sum(worker.state == "ready" for worker in self._current(role)) >= self._wanted(role)
            for role in (WORKER, SINGLE)
        )

    def _tell_to_stop(self, workers: list[Worker]) -> None:
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

    def _spawn(self, role: str) -> None:
        self.worker_age += 1
        worker: Worker = self.worker_class(
            self.worker_age, self.pid, self.LISTENERS, self.app, self.timeout / 2, self.cfg, self.log
        )
        worker.role, worker.generation, worker.plan = role, self.generation, self.plan
        worker.listeners, worker.run_dir = self._listeners, self._run_dir.path
        worker.born = time.monotonic()
        worker.notify()  # so that its start has its time, too
        self.cfg.pre_fork(self, worker)
        # A signal that came before the process can take it would be one to the arbiter that it still is.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
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
        if self._owner is not None:
            self._owner.close()
        self._run_dir.let_go()
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
                    self.log.warning("the new arbiter %d has ended", pid)
                    with contextlib.suppress(OSError):  # the front may be as the other one wanted it
                        self._configure_front(self.plan)
                    continue
                if self._reload is not None and self._reload.reaped(pid, status):
                    continue
                worker = self.WORKERS.pop(pid, None)
                if worker is not None:
                    worker.hear()
                    self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"exited with status {code}"
        expected = worker.told_at is not None and code in (0, -signal.SIGTERM, -signal.SIGQUIT)
        (self.log.debug if expected else self.log.error)("%s %d %s", worker.role, worker.pid, how)
        was_ready = worker.report["state"] == "ready"
        worker.forget()
        self.cfg.child_exit(self, worker)
        if worker.role == FRONT and self._owner is not None and code:
            self._lose_front()
        if expected or worker.told_at is not None:
            return
        if self._reload is not None and worker.generation == self.generation and worker.role != FRONT:
            self._reload.failed = f"{worker.role} {worker.pid} {how}"
        elif not self._is_up and not was_ready:
            status = worker.report.get("status", _FAILED)
            raise HaltServer(f"{worker.role} {worker.pid} could not start: it {how}", status)
        else:
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

    # The front -------------------------------------------------------------------------------------------------

    def _keep_front(self) -> None:
        if self._owner is not None and select.select([self._owner], [], [], 0)[0]:
            self.log.error("the front is gone; another one takes its place")
            self._lose_front()
        if self._owner is not None and not self.plan.lanes:
            self._tell_front_to_end()
        if self._owner is not None or not self.plan.lanes:
            return
        path = front_control(self._run_dir.path)
        if not self._of(FRONT):
            with contextlib.suppress(OSError):  # there may be one, of the arbiter before this one
                self._owner = FrontOwner.connect(path, _FRONT_TIME)
            if self._owner is None:
                if not self._backoff.is_over:
                    return
                self._spawn(FRONT)
        try:
            self._owner = self._owner or _connected(path)
            for flaw in self._configure_front(self.plan):
                self.log.error("%s", flaw)
        except OSError as error:
            self._lose_front()
            self.log.error("the front takes no orders: %s", error)
            for front in self._of(FRONT):
                self.kill_worker(front.pid, signal.SIGKILL)

    def _configure_front(self, plan: Plan) -> list[str]:
        if self._owner is None:
            return []
        descriptors = {listener.endpoint: listener.fileno() for listener in self.LISTENERS}
        lanes = [
            msgspec.structs.replace(
                lane, uris=tuple(self._listeners[f"{lane.name} {uri}"].endpoint for uri in lane.uris)
            )
            for lane in plan.lanes
        ]
        return self._owner.configure(lanes, descriptors, self.cfg.graceful_timeout)

    def _tell_front_to_end(self) -> None:
        """Say that it is not needed any more. It goes on for another arbiter that needs it."""
        if self._owner is None:
            return
        goes_on = False
        with contextlib.suppress(OSError):
            goes_on = self._owner.release()
        self._lose_front()
        for front in self._of(FRONT):
            front.told_at = time.monotonic()
            if goes_on:
                self.WORKERS.pop(front.pid).forget()

    def _lose_front(self) -> None:
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    # Signals ---------------------------------------------------------------------------------------------------

    def handle_hup(self) -> None:
        """SIGHUP: reload."""
        self.reload()

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
        self._reload = _Reload(Checking(self.app.checking))
        self._tell_systemd()

    def _further_reload(self) -> None:
        """Go on with a reload, as far as it can go now."""
        changed = {worker.report.pop("changed") for worker in self.WORKERS.values() if "changed" in worker.report}
        if changed:
            self.log.info("%s changed", ", ".join(changed))
            self.reload()
        reload = self._reload
        if reload is None:
            return
        if reload.checking is not None:
            outcome = reload.checking.outcome()
            if outcome is None:
                return
            reload.checking = None
            if isinstance(outcome, str):
                self._abandon_reload(outcome)
                return
            self._start_generation(reload, outcome)
        if reload.failed:
            self._roll_back(reload)
        elif time.monotonic() > reload.due:
            reload.failed = f"the new workers were not ready within {_READY_TIME:g} s"
            self._roll_back(reload)
        elif sum(one.state == "ready" for one in self._current(WORKER)) >= self._wanted(WORKER):
            self._commit(reload)

    def _start_generation(self, reload: _Reload, plan: Plan) -> None:
        """Start workers by the new plan, beside those that there are."""
        reload.old = self.plan, self.cfg, self.num_workers, self._listeners
        reload.due = time.monotonic() + _READY_TIME
        reload.changes = changes(self.plan, plan)
        plan = with_backends(kept(self.plan, plan), self._run_dir.path)
        try:
            self._listeners = dict(self._listeners)
            self.app.plan = plan
            self.app.do_load_config()
            self._open(plan, {})
        except DployError as error:
            reload.failed = str(error)
            return
        self.plan = plan
        self.setup(self.app)
        self.generation += 1
        self.log.info("reloading: starting %d workers", self._wanted(WORKER))

    def _roll_back(self, reload: _Reload) -> None:
        new = [
            worker for worker in self.WORKERS.values() if worker.generation == self.generation and worker.role != FRONT
        ]
        plan, cfg, num_workers, listeners = reload.old
        if self.plan is not plan:
            self._tell_to_stop(new)
            self.generation -= 1
        for key in self._listeners.keys() - listeners.keys():
            self._listeners[key].close()
        self._listeners, self.LISTENERS = listeners, list(listeners.values())
        self.plan = self.app.plan = plan
        self.app.cfg = cfg
        self.setup(self.app)
        self.num_workers = num_workers
        self._abandon_reload(reload.failed)

    def _abandon_reload(self, why: str) -> None:
        self.log.error("not reloaded, nothing has changed: %s", why)
        self._end_reload()

    def _commit(self, reload: _Reload) -> None:
        """The new workers are ready: the old ones may stop."""
        try:
            flaws = self._configure_front(self.plan)
        except OSError as error:
            self._lose_front()
            flaws = [str(error)]
        for key in self._listeners.keys() - {one.key for one in self.plan.listening}:
            self._listeners.pop(key).close()
        self.LISTENERS = list(self._listeners.values())
        self.cfg.on_reload(self)
        for change in reload.changes:
            (self.log.info if change.applied else self.log.warning)("%s", change)
        for flaw in flaws:
            self.log.warning("%s", flaw)
        self.log.info("reloaded")
        self._end_reload()

    def _end_reload(self) -> None:
        self._reload = None
        if self._again:
            self._again = False
            self.reload()

    # A second arbiter, and the end ------------------------------------------------------------------------------

    def reexec(self) -> None:
        """Start another arbiter beside this one, which takes over what listens, and the front."""
        for listener in self.LISTENERS:
            os.set_inheritable(listener.fileno(), True)
        handed_over = {key: listener.fileno() for key, listener in self._listeners.items()}
        # As it was called: by -m, and with the options of the interpreter.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        try:
            with self._run_dir.handed_over() as run_dir:
                self.cfg.env_orig |= {_LISTENERS: json.dumps(handed_over), _RUN_DIR: run_dir}
                super().reexec()
        except Exception:
            self.log.exception("a new arbiter could not be started")
            if os.getpid() != self.pid:  # the child: what there is to clean up is not its own
                os._exit(_FAILED)
        for listener in self.LISTENERS:
            os.set_inheritable(listener.fileno(), False)

    def maybe_promote_master(self) -> None:
        """Become the only one, when the arbiter before this one has ended."""
        second = self.master_pid
        if second and second != os.getppid() and self.cfg.pidfile is not None:
            remove_pid_file(self.cfg.pidfile, second)
        super().maybe_promote_master()
        if second and not self.master_pid:
            self.master_name = self.proc_name
            for listener in self.LISTENERS:
                listener.own()
            # systemd has noted that we are no child of its own, as we were not then, and would wait for nobody when it
            # stops us. It looks again only when the main process is another one.
            for pid in (*list(self.WORKERS)[:1], self.pid):
                self._notify(f"MAINPID={pid}")
            self._announced = ""

    def stop(self, graceful: bool = True) -> None:
        """Stop the processes: running handlers have the graceful timeout, if it is to be graceful."""
        self.maybe_promote_master()  # it may be a moment since the arbiter before this one has ended
        if self.reexec_pid:  # that one goes on, and to systemd, so does the service
            self._notify(f"MAINPID={self.reexec_pid}")
        else:
            self._tell_systemd("STOPPING=1\nSTATUS=stopping")
        self._end_processes(graceful)
        alone = self.reexec_pid == self.master_pid == 0
        for listener in self.LISTENERS:
            listener.close(unlink=alone and not self.systemd)
        self.LISTENERS, self._listeners = [], {}
        self._run_dir.remove(last=alone)

    def _end_processes(self, graceful: bool) -> None:
        if self._reload is not None and self._reload.checking is not None:
            self._reload.checking.close()
        self._tell_front_to_end()
        until = time.monotonic() + (self.cfg.graceful_timeout + _CLOSING_TIME if graceful else _QUICK_TIME)
        self._tell_all(signal.SIGTERM if graceful else signal.SIGQUIT)
        while self.WORKERS and time.monotonic() < until:
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

    def _tell_all(self, number: signal.Signals) -> None:
        for worker in list(self.WORKERS.values()):
            worker.told_at = worker.told_at or time.monotonic()
            self.kill_worker(worker.pid, number)

    # What it says ----------------------------------------------------------------------------------------------

    def _notify(self, state: str) -> None:
        if state:
            systemd.sd_notify(state, self.log)

    def _tell_systemd(self, state: str = "") -> None:
        """Say how the service is, and that it lives. While there are two arbiters, the first one says how it is."""
        if not state:
            if self._reload is not None:
                state = "RELOADING=1\nSTATUS=reloading"
            elif self._is_up:
                state = f"READY=1\nSTATUS={self._summary()}"
            else:
                state = "STATUS=starting"
        if state != self._announced and not self.master_pid:
            self._announced = state
            if state.startswith("RELOADING"):
                state += f"\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
            self._notify(state)
        watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / 1e6
        if watchdog and time.monotonic() - self._dogged > min(watchdog / 4, _TICK):
            self._dogged = time.monotonic()
            self._notify("WATCHDOG=1")

    def _write_status(self) -> None:
        """Write what `dploylib status` reads."""
        front: dict[str, Any] = {}
        if self._owner is not None:
            try:
                front = self._owner.status()
            except OSError:
                self._lose_front()
        state = "reloading" if self._reload is not None else "ready" if self._is_ready() else "starting"
        status = {
            "name": self.cfg.proc_name,
            "pid": self.pid,
            "predecessor": self.master_pid or None,
            "successor": self.reexec_pid or None,
            "state": state,
            "started": self.started,
            "written": time.time(),
            "generation": self.generation,
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
            "front": front,
        }
        self._run_dir.write_status(status)


class _Reload:
    """A reload that is going on."""

    def __init__(self, checking: Checking) -> None:
        self.checking: Checking | None = checking
        self.changes: list[Change] = []
        self.failed = ""
        self.due = 0.0
        self.old: Any = None

    def reaped(self, pid: int, status: int) -> bool:
        """Take note of the end of the child that checks; False for another one."""
        return self.checking is not None and self.checking.reaped(pid, status)


def with_backends(plan: Plan, run_dir: str) -> Plan:
    """The plan with the endpoints at which workers find their lanes: short ones, since such paths must be."""
    lanes = [msgspec.structs.replace(lane, backend=_backend(lane, run_dir)) for lane in plan.lanes]
    return msgspec.structs.replace(plan, lanes=lanes)


def _backend(lane: Lane, run_dir: str) -> str:
    name = hashlib.sha256(f"{lane.server}.{lane.socket}".encode()).hexdigest()[:8]
    return f"ipc://{os.path.join(run_dir, name)}"


def _connected(path: str) -> FrontOwner:
    """A connection to a front that was just started."""
    ends = time.monotonic() + _FRONT_TIME
    while True:
        try:
            return FrontOwner.connect(path, _FRONT_TIME)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
