"""Servers in processes of their own.

The coordinator and each process share a socket pair, the *channel*. Over it the process gets its job, and says what it
logs, where its sockets are, and why it ended; and by its end either of the two learns that the other one is gone. The
control socket is for the stop, as everywhere.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import logging.handlers
import multiprocessing.spawn
import multiprocessing.util
import os
import pickle
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import ORIGINAL_DIR, current_process  # type: ignore[attr-defined]  # not in the stubs
from typing import Any, NamedTuple

import gevent
import gevent.monkey
import gevent.socket
from gevent import subprocess

from ..config import Settings
from ..errors import ConfigurationError, DeclarationError, DployError, ProcessDied, ServiceStateError
from ..logs import MessageFields
from ..servers import GRACEFUL_TIMEOUT, Hook, Server
from ..servers.farewell import ENDING_TIME
from ..tracing import set_up
from ..transport import Context
from ..transport.spawning import new_lock, spawn_named, start_thread
from .blocking import watch_for_blocking
from .coordinator import ServerCoordinator, ServerRun
from .logs import log_all_by
from .signals import on_signals

__all__ = ["ProcessServerCoordinator", "serve_in_child"]

log = logging.getLogger(__name__)

_FORMATTER = logging.Formatter()

_SCRIPT = os.path.join(os.path.dirname(__file__), "_child.py")
_WHAT_IT_TAKES = (
    "its class has to be at the top level of a module that can be imported, and its settings and hooks to be picklable"
)
_TELLING_INTERVAL = 1.0  # seconds between two times that it tells what it has counted
_READING_TIME = 2.0  # seconds to hear what a process that has ended said last
_DYING_TIME = 2 * ENDING_TIME + 1.0  # seconds that a process has to end when it was told to at once


class _Job(NamedTuple):
    """What a process has to do."""

    name: str
    server_cls: type[Server]
    settings: Any
    control_uri: str
    hooks: Sequence[Hook]
    max_blocking: float
    log_level: int


class ProcessServerCoordinator(ServerCoordinator):
    """Runs each server in a process of its own, a fresh interpreter: they compute at the same time, and crash alone.

    The server class and hooks have to be importable there by their names, and settings and hooks to be picklable. What
    stands at the top level of a script that is run has to be behind `if __name__ == "__main__":`. inproc endpoints are
    known within one process only.

    What a server logs is logged here, by the loggers of the same names. Its process ends when this one does, however
    that comes. It has to be started in the main thread.
    """

    in_this_process = False

    def __init__(self, control_uri: str | None = None) -> None:
        if control_uri is not None and control_uri.startswith("inproc:"):
            raise ValueError(f"{control_uri} is known within one process only; the control socket needs ipc:// here")
        super().__init__(control_uri)
        self._processes: dict[ServerRun, _Process] = {}
        self._directory: str | None = None

    def setup_servers(
        self,
        servers: Mapping[str, type[Server]],
        settings: Settings,
        hooks: Sequence[Hook] = (),
        max_blocking: float = 0,
    ) -> None:
        """Prepare a run of each server.

        Raises `ConfigurationError` for inproc endpoints between servers, `ServiceStateError` in another thread than the
        main one.
        """
        if not gevent.get_hub().loop.default:
            raise ServiceStateError("processes can be started in the main thread only: gevent can wait for them there")
        used = {
            (uri, name, socket)
            for name in servers
            for socket, info in settings.server_info(name).items()
            for uri in info.uris
            if uri.startswith("inproc:")
        }
        problems = [
            settings.problem(
                ("servers", name, socket, "uri"),
                f"{uri} is known within one process only, and server {other!r}, which has it too, runs in another one; "
                "use ipc:// or tcp://",
            )
            for uri, name, socket in used
            for other in sorted({other for same, other, _ in used if same == uri and other != name})[:1]
        ]
        if problems:
            raise ConfigurationError(problems)
        super().setup_servers(servers, settings, hooks, max_blocking)

    def spawn(self, run: ServerRun) -> None:
        """Run the server in a process."""
        self._processes[run] = process = _Process(run, super().server_ready, self._ended)
        try:
            process.start()
        except BaseException:
            del self._processes[run]
            raise

    def kill(self, run: ServerRun) -> None:
        """End the process: it has some seconds to tell its callers, and is killed then."""
        self._processes[run].kill()

    def abandon(self, run: ServerRun) -> None:
        """Kill the process, which takes no notice."""
        log.error("the process of server %s does not end, and is killed", run.name)
        self._processes[run].kill_at_once()
        if not run.ended.wait(_READING_TIME + 1):
            super().abandon(run)

    def server_ready(self, run: ServerRun) -> None:
        """Called when a server has said over the control socket that it is ready."""
        if run in self._processes:
            self._processes[run].is_ready()

    def _ended(self, run: ServerRun, error: BaseException | None) -> None:
        del self._processes[run]
        self.server_ended(run, error)

    def _make_control_uri(self) -> str:
        if self._given_control_uri is not None:
            return self._given_control_uri
        self._directory = tempfile.mkdtemp(prefix="dploylib-")  # which others may not enter
        return f"ipc://{self._directory}/control"

    def _close_context(self, context: Context) -> None:
        context.close()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None


class _Process:
    """A process in which a server runs, seen from the coordinator."""

    def __init__(
        self,
        run: ServerRun,
        ready: Callable[[ServerRun], None],
        ended: Callable[[ServerRun, BaseException | None], None],
    ) -> None:
        self._run = run
        self._ready = ready
        self._ended = ended
        self._subscribed = False
        self._endpoints: dict[str, list[str]] | None = None
        self._error: BaseException | None = None
        self._has_said_why = False  # it ended
        self._popen: Any = None
        self._killed = False

    def start(self) -> None:
        """Start the process. Others may run meanwhile."""
        job = _pickled(self._run)
        self._channel, theirs = gevent.socket.socketpair()
        try:
            # Not in a session of its own: who stops a group of processes means this one, too.
            self._popen = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), _SCRIPT, self._run.name, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        name = f"server {self._run.name}"
        self._reading = spawn_named(f"{name}: listen to the process", self._read)
        spawn_named(f"{name}: wait for the process", self._wait)
        if self._killed:
            self._popen.kill()
        spawn_named(f"{name}: tell the process what to do", self._channel_send, job)

    def is_ready(self) -> None:
        """The control socket says that the server is ready: it is, when it is known where its sockets are."""
        self._subscribed = True
        self._check_ready()

    def kill(self) -> None:
        """Let the process end itself."""
        self._killed = True
        if self._popen is not None:
            with contextlib.suppress(OSError):
                self._channel.shutdown(gevent.socket.SHUT_WR)

    def kill_at_once(self) -> None:
        """End the process, whatever it does."""
        self._killed = True
        if self._popen is not None:
            self._popen.kill()

    def _check_ready(self) -> None:
        if self._subscribed and self._endpoints is not None:
            self._run.endpoints = self._endpoints
            self._ready(self._run)

    def _channel_send(self, job: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended already, and somebody waits for that
            self._channel.sendall(job)

    def _read(self) -> None:
        """Take what the process says, until it says nothing more."""
        with self._channel.makefile("rb") as stream, contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            while True:
                said = pickle.load(stream)
                try:
                    self._hear(*pickle.loads(said))
                except Exception:
                    log.exception("what the process of server %s says cannot be taken", self._run.name)

    def _hear(self, kind: str, content: Any) -> None:
        if kind == "log":
            logging.getLogger(content.name).handle(content)
        elif kind == "statistics":
            self._run.told = content
        elif kind == "endpoints":
            self._endpoints = content
            self._check_ready()
        else:
            self._has_said_why = True
            self._error = content and _unpacked(content)

    def _wait(self) -> None:
        status = self._popen.wait()
        try:
            self._reading.join(timeout=_READING_TIME)  # a process that it started may have the channel too
            self._reading.kill()
            self._channel.close()
        finally:
            if not self._has_said_why and not self._killed:
                how = f"was ended by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"
                self._error = ProcessDied(f"the process {self._popen.pid} of server {self._run.name!r} {how}")
            self._ended(self._run, self._error)


def _interpreter_flags() -> list[str]:
    """The flags of this interpreter (-O, -W, -X and so on)."""
    flags: list[str] = multiprocessing.util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most of the real-time signals have none
        return f"signal {number}"


def _pickled(run: ServerRun) -> bytes:
    """What a process reads: where modules are, whether to patch, the main module if it needs that, and its job."""
    try:
        main = multiprocessing.spawn.get_preparation_data(run.name)
    except RuntimeError as error:
        raise ServiceStateError(
            "a process of a server imports the script that started it, and this one starts a service again then: put "
            'what starts it behind `if __name__ == "__main__":`'
        ) from error
    main = {key: value for key, value in main.items() if key.startswith("init_main")}
    level = logging.getLogger().getEffectiveLevel()
    try:
        job = pickle.dumps(
            _Job(run.name, run.server_cls, run.settings, run.control_uri, run.hooks, run.max_blocking, level)
        )
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise DeclarationError(
            f"server {run.name!r} cannot run in a process of its own: {error}; {_WHAT_IT_TAKES}"
        ) from error
    patched = gevent.monkey.is_module_patched("socket")
    needs_main = b"__main__" in job
    path = [place or ORIGINAL_DIR for place in sys.path]  # '' is where we were, as multiprocessing has it
    return b"".join(map(pickle.dumps, ((path, sys.argv, patched), main if needs_main else {}, job)))


# In the process --------------------------------------------------------------------------------------------------


def serve_in_child(channel: Any, stream: Any) -> int:
    """Do the job that comes over the channel, and return the exit status."""
    coordinator = _Coordinator(channel)
    error: BaseException | None = None
    try:
        _import_main(pickle.load(stream))
        error = _serve(_read_job(pickle.load(stream)), coordinator)
    except BaseException as raised:  # noqa: BLE001 - the coordinator is told
        error = raised
    coordinator.say("end", error and _packed(error))
    coordinator.close()
    return int(error is not None)


def _read_job(pickled: bytes) -> _Job:
    try:
        job: _Job = pickle.loads(pickled)
    except (AttributeError, ImportError, pickle.UnpicklingError) as error:
        raise DeclarationError(f"this server cannot run in a process of its own: {error}; {_WHAT_IT_TAKES}") from error
    return job


def _serve(job: _Job, coordinator: _Coordinator) -> BaseException | None:
    to_coordinator = _ToCoordinator(coordinator)
    logging.getLogger().setLevel(job.log_level)
    logging.getLogger().addHandler(to_coordinator)
    log_all_by(to_coordinator)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the coordinator decides
    if job.settings.exports_traces:
        set_up(job.settings.service, job.settings.monitoring.tracing)
    announcement = _Announcement(coordinator)
    run = ServerRun(job.name, job.server_cls, job.settings, job.control_uri, [announcement, *job.hooks])
    with Context.new() as context:
        serving = run.greenlet(context)

        def end(_: signal.Signals) -> None:
            if run.server is not None and announcement.made:
                run.server.stop(GRACEFUL_TIMEOUT)
            else:
                run.end_at_once()

        loop = gevent.get_hub().loop
        coordinator.when_gone(lambda: loop.run_callback_threadsafe(run.end_at_once))
        with on_signals((signal.SIGTERM,), end), watch_for_blocking(job.max_blocking):
            serving.start()
            while not serving.dead:
                serving.join(_TELLING_INTERVAL)
                if run.server is not None:
                    coordinator.say("statistics", run.server.statistics())
    return run.outcome()


class _Announcement(Hook):
    """Tells the coordinator where the sockets are."""

    def __init__(self, coordinator: _Coordinator) -> None:
        self.made = False
        self._coordinator = coordinator

    def server_started(self, server: Any) -> None:
        """Say where the sockets are, and what there is to be counted."""
        self._coordinator.say("statistics", server.statistics())
        self._coordinator.say("endpoints", server.endpoints)
        self.made = True


class _Coordinator:
    """The coordinator, seen from a process. What it is told is sent by a thread, so that nothing here waits for it."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._stream = channel.makefile("wb")
        self._said = gevent.monkey.get_original("queue", "SimpleQueue")()
        self._sent = new_lock()
        self._sent.acquire()
        start_thread(self._send)

    def say(self, kind: str, content: Any) -> None:
        """Tell it something."""
        self._said.put((kind, content))

    def close(self) -> None:
        """Return when all was sent, or cannot be."""
        self._said.put(None)
        self._sent.acquire(timeout=_READING_TIME)

    def when_gone(self, call: Callable[[], Any]) -> None:
        """Call this in another thread when the coordinator's process has ended, or wants this one to end."""
        start_thread(self._watch, call)

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while (said := self._said.get()) is not None:
                pickle.dump(_dumped(*said), self._stream)
                self._stream.flush()
        self._sent.release()

    def _watch(self, call: Callable[[], Any]) -> None:
        with contextlib.suppress(OSError):
            self._channel.recv(1)  # nothing is ever sent
        call()
        gevent.monkey.get_original("time", "sleep")(_DYING_TIME)
        os._exit(1)  # the hub is blocked


class _ToCoordinator(logging.handlers.QueueHandler):
    """Hands what is logged over to the coordinator, formatted as far as it has to be for that."""

    def __init__(self, coordinator: _Coordinator) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # of the queue only `enqueue` knows
        self._coordinator = coordinator
        self.addFilter(MessageFields())

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """The record with its texts in place of what cannot travel. The traceback stays apart from the message."""
        ready = copy.copy(record)
        ready.message = ready.msg = record.getMessage()
        ready.args = None
        if record.exc_info:
            ready.exc_text = record.exc_text or _FORMATTER.formatException(record.exc_info)
            ready.exc_info = None
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Hand a record over."""
        self._coordinator.say("log", record)


def _dumped(kind: str, content: Any) -> bytes:
    """What is said, in a form that the coordinator can read: a record without what it cannot, if need be."""
    try:
        said = pickle.dumps((kind, content))
        pickle.loads(said)
    except Exception:
        if kind != "log":
            raise
        plain = vars(logging.makeLogRecord({})).keys()
        said = pickle.dumps((kind, logging.makeLogRecord({key: getattr(content, key) for key in plain})))
    return said


def _import_main(main: dict[str, Any]) -> None:
    """Import the script whose classes are needed, as multiprocessing does: under another name than `__main__`."""
    process: Any = current_process()
    process._inheriting = True  # so that get_preparation_data() refuses to start processes meanwhile
    try:
        multiprocessing.spawn.prepare(main)
    finally:
        del process._inheriting


# Errors on their way -----------------------------------------------------------------------------------------------


def _packed(error: BaseException) -> list[bytes]:
    """An error and what caused it, each pickled on its own, and the traceback as text in the end."""
    packed: list[bytes] = []
    one: BaseException | None = error
    while one is not None and len(packed) < 10:
        packed.append(_picklable(one))
        one = one.__cause__
    return [*packed, "".join(traceback.format_exception(error)).encode()]


def _picklable(error: BaseException) -> bytes:
    """The error, or what comes nearest to it, as the call that makes it."""
    for call in ((_same, error), (type(error), *error.args)):  # the second for a gevent.Timeout, which has a timer
        try:
            data = pickle.dumps(call)
            if str(_made_from(data)) == str(error):
                return data
        except Exception:  # noqa: BLE001 - an exception may have anything in it
            continue
    return pickle.dumps((DployError, f"{type(error).__name__}: {error}"))


def _same(error: BaseException) -> BaseException:
    return error


def _made_from(data: bytes) -> BaseException:
    call, *args = pickle.loads(data)
    error: BaseException = call(*args)
    return error


def _unpacked(packed: list[bytes]) -> BaseException:
    """The error, with its causes; the last one is the traceback in the process."""
    from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]  # not in the stubs

    *errors, text = packed
    cause: BaseException = RemoteTraceback(f"\n{text.decode()}")
    for data in reversed(errors):
        try:
            error = _made_from(data)
        except Exception as failure:  # noqa: BLE001 - a class that is not there, say
            error = DployError(f"an error that cannot be read here: {failure}")
        error.__cause__ = cause
        cause = error
    return cause
