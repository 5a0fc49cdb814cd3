"""The control server: it answers who asks how this process is, and does what it is told.

It runs in a thread with a hub of its own, so that it answers while the servers are busy, or stop, or block theirs.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from typing import Any, ClassVar, Final

import gevent
import greenlet
import msgspec
import zmq

from .. import __version__
from ..config import as_yaml
from ..errors import ConfigurationError, DployError
from ..servers import Server, bind_in
from ..transport import Problem
from .aside import Aside
from .local import Local
from .protocol import (
    Done,
    Info,
    LogLevel,
    Ping,
    Profile,
    ServerInfo,
    SocketInfo,
    Stop,
    Text,
    control_endpoint,
    decoded,
)
from .remains import add_remains

__all__ = ["Control", "ControlServer", "Subject"]

log = logging.getLogger(__name__)

_LONGEST_PROFILE = 600.0  # seconds


class Subject:
    """What a control server speaks of, and what it lets be done to it.

    `stop` is called with a graceful timeout or None, and `reload` with nothing, where that is possible; neither may
    wait.
    """

    def __init__(
        self,
        local: Local,
        stop: Callable[[float | None], Any] | None = None,
        reload: Callable[[], Any] | None = None,
        target: str = "",
        config: str = "",
    ) -> None:
        self.local = local
        self.stop = stop
        self.reload = reload
        self.target = target
        self.config = config


class ControlServer(Server):
    """Answers each verb of the `protocol`."""

    subject: ClassVar[Subject]

    @bind_in("control", "rep", concurrency=20)
    def control(self, socket: Any, received: Any) -> Any:
        """Answer one."""
        verb = received.id.upper()
        if verb not in _VERBS:
            return _problem("unknown-command", 404, f"there is no command {received.id!r}, but {', '.join(_VERBS)}")
        kind, answer = _VERBS[verb]
        try:
            argument = None if kind is None else decoded(received.data, kind)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return _problem("invalid-data", 422, f"{verb}: {error}")
        return answer(self.subject, argument)


def _ping(subject: Subject, _: None) -> Ping:
    local = subject.local
    return Ping(service=local.name, role=local.role, pid=local.pid, version=__version__)


def _info(subject: Subject, _: None) -> Info:
    local = subject.local
    service = local.service
    [now] = local.statistics()
    classes = service.server_classes
    return Info(
        service=local.name,
        role=local.role,
        pid=now.pid,
        instance=local.instance,
        started=local.started,
        state=now.state,
        target=subject.target,
        config=subject.config,
        versions={
            "dploylib": __version__,
            "python": platform.python_version(),
            "gevent": gevent.__version__,
            "greenlet": greenlet.__version__,
            "pyzmq": zmq.pyzmq_version(),
            "libzmq": zmq.zmq_version(),
        },
        servers={
            name: ServerInfo(
                type=server.type,
                sockets={
                    socket: SocketInfo(
                        type=one.type,
                        endpoints=one.endpoints,
                        handler=_handler_name(classes.get(name), socket),
                        concurrency=one.concurrency,
                    )
                    for socket, one in server.sockets.items()
                },
            )
            for name, server in now.servers.items()
        },
        settings="" if service.settings is None else as_yaml(service.settings),
    )


def _handler_name(server_cls: type[Server] | None, socket: str) -> str:
    described = () if server_cls is None else server_cls.description.sockets.values()
    for one in described:
        if one.name == socket and one.input_handler is not None:
            handler: Any = one.input_handler
            return str(getattr(handler, "__qualname__", type(handler).__qualname__))
    return ""


def _stop(subject: Subject, stop: Stop) -> Any:
    if stop.graceful_timeout is not None and not stop.graceful_timeout >= 0:
        return _problem("invalid-data", 422, f"STOP: a number of seconds from 0 on, not {stop.graceful_timeout}")
    if subject.stop is None:
        return _problem(
            "not-possible", 409, f"a {subject.local.role} cannot stop the service: ask another process of it"
        )
    log.info("told to stop")
    subject.stop(stop.graceful_timeout)
    return Done(f"{subject.local.name} stops")


def _reload(subject: Subject, _: None) -> Any:
    if subject.reload is None:
        return _problem(
            "not-possible", 409, "only what `dploylib serve` runs can be reloaded: stop this one, and start it again"
        )
    log.info("told to reload")
    subject.reload()
    return Done(f"{subject.local.name} reloads")


def _loglevel(subject: Subject, wanted: LogLevel) -> Any:
    logger = logging.getLogger(wanted.logger or None)
    before = logging.getLevelName(logger.getEffectiveLevel()).lower()
    if wanted.level is not None:
        level = wanted.level.upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
            return _problem(
                "invalid-data", 422, f"LOGLEVEL: debug, info, warning, error or critical, not {wanted.level!r}"
            )
        logger.setLevel(level)
        name = ascii(wanted.logger)[1:-1] or "the log"
        log.info("the level of %s is %s from now on", name, level.lower())
    now = logging.getLevelName(logger.getEffectiveLevel()).lower()
    return LogLevel(wanted.logger, now, before)


def _stacks(subject: Subject, _: None) -> Text:
    from .stacks import stacks

    return Text(stacks(subject.local.service.servers.values()))


def _profile(subject: Subject, wanted: Profile) -> Any:
    if not 0 < wanted.seconds <= _LONGEST_PROFILE:
        return _problem("invalid-data", 422, f"PROFILE: for up to {_LONGEST_PROFILE:g} seconds, not {wanted.seconds}")
    try:
        from .profiling import profile

        return profile(subject.local.service.servers.values(), wanted.seconds).to_json()
    except DployError as error:  # pyinstrument is not installed, or somebody else profiles already
        return _problem("not-possible", 409, str(error))


_VERBS: Final[dict[str, tuple[type[Any] | None, Callable[[Subject, Any], Any]]]] = {
    "PING": (None, _ping),
    "INFO": (None, _info),
    "STATS": (None, lambda subject, _: subject.local.statistics()[0]),
    "HEALTH": (None, lambda subject, _: subject.local.health()),
    "STOP": (Stop, _stop),
    "RELOAD": (None, _reload),
    "LOGLEVEL": (LogLevel, _loglevel),
    "STACKS": (None, _stacks),
    "PROFILE": (Profile, _profile),
}


def _problem(type: str, status: int, detail: str) -> Problem:
    return Problem(f"urn:dploylib:{type}", type.replace("-", " ").capitalize(), status, detail)


class Control:
    """The control server of this process, in the run directory of the service. To be used in `with`.

    Where it cannot be, a line in the log says why, and the service runs without it. With `leaves`, what the process has
    counted is left there in the end, for the figures of the service as a whole.
    """

    def __init__(self, subject: Subject, run_dir: str, leaves: bool = False) -> None:
        self._local = subject.local
        self._run_dir = run_dir
        self._leaves = leaves
        self._endpoint = control_endpoint(run_dir, subject.local.pid)
        self._service = Aside("control", ControlServer, {"control": self._endpoint}, subject=subject)

    def start(self) -> None:
        """Listen, from now on."""
        try:
            self._service.__enter__()
        except ConfigurationError as error:  # the path is too long, say
            why = ", ".join(problem.message for problem in error.problems)
            log.warning("this process can be asked nothing: %s: %s", self._endpoint, why)
        except DployError as error:
            log.warning("this process can be asked nothing: %s", error)

    def stop(self) -> None:
        """Listen no more."""
        self._service.stop()
        if self._leaves:
            try:
                add_remains(self._run_dir, *self._local.statistics())
            except OSError as error:
                log.warning("what this process has counted is lost: %s", error)

    def __enter__(self) -> Control:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
