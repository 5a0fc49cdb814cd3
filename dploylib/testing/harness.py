"""A real service inside a test: started at endpoints of its own, talked to, stopped, and checked for what it leaves."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import gevent
import msgspec
from greenlet import getcurrent

from ..clients import ListeningClient, PushClient, RequestClient
from ..config import Defaults, Settings
from ..errors import LeftBehind, ServerFailing, ServiceFailing
from ..servers import Server, SocketDescription
from ..services import Service
from ..transport import Context, Socket
from ..transport.options import Options
from ..transport.spawning import spawn_named
from .endpoints import ANYWHERE, Rewriting, directory_for_endpoints
from .leaks import LeakCheck

__all__ = ["RunningService", "running"]

_LINGER = 0.5  # seconds for which the sockets of a test, when it is over, still send what is queued

# Whether another one around this looks for leaks, and will find those of this one. Here, what is left may be a socket
# that talks to that one.
_checked: ContextVar[bool] = ContextVar("dploylib.testing leaks are looked for", default=False)

# By the type of a service's socket, the type of a socket that talks to it.
_PEERS = {
    "rep": "req",
    "req": "rep",
    "router": "req",
    "dealer": "dealer",
    "pull": "push",
    "push": "pull",
    "pub": "sub",
    "sub": "pub",
    "xpub": "sub",
    "xsub": "pub",
    "pair": "pair",
    "stream": "stream",
}

# By the type of a service's socket, the client for it.
_CLIENTS: dict[str, Any] = {
    "rep": RequestClient,
    "router": RequestClient,
    "pull": PushClient,
    "pub": ListeningClient,
    "xpub": ListeningClient,
}


@contextlib.contextmanager
def running(
    service: Service,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    config_string: str | None = None,
    general: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    supervision: Mapping[str, Mapping[str, Any]] | None = None,
    security: Mapping[str, Any] | None = None,
    graceful_timeout: float = 1.0,
    check_leaks: bool = True,
    **servers: Mapping[str, Mapping[str, Any]],
) -> Iterator[RunningService]:
    """A context manager within which the service runs, for a test.

    For example::

        with running(service, "config.yaml", echo={"request": {"concurrency": 10}}, general={"greeting": "hi"}) as it:
            assert it.client("echo.request").request("you").text == "hi you"

    `config` is a file of YAML or a dict, `config_string` YAML itself. Without any, every socket that is declared has an
    endpoint, and nothing else but what templates of the service say. The other keywords replace parts of it, key by
    key: `general`, `settings`, `supervision`, and for each server, by name, the settings of its sockets. `security`
    stands in place of all that it says about that, of sockets too: `{}` for none, where there are no keys. A service
    with handlers for groups needs some.

    The endpoints become free ones (see `Rewriting`), but for those that the keywords give: these stay.

    It is ready when it is entered. Leaving stops the service, with `graceful_timeout` seconds for its handlers, and
    raises `LeftBehind` when anything is left that was not there before: greenlets, sockets, threads, file descriptors,
    processes. Of several, within each other, the outermost one looks. Turn `check_leaks` off for a service that
    outlives a test: what others open meanwhile, and keep, would be its leak.

    When the service fails, `ServiceFailing` is raised in the greenlet that entered this, as a `gevent.Timeout` is: as
    soon as that waits for something. It is raised when the service is left, also if the test has caught it before,
    unless that has asked for it by `wait_for_failure`. What the test raised itself is not replaced by either.
    """
    check = None if _checked.get() or not check_leaks else LeakCheck()
    with _checking(check is not None), directory_for_endpoints() as directory:
        sections = _sections(service, config, config_string)
        for section, given in (("general", general), ("settings", settings), ("supervision", supervision)):
            sections[section] = {**sections[section], **(given or {})}
        if security is not None:
            sections["security"] = {
                setting: os.fspath(value) if isinstance(value, os.PathLike) else value
                for setting, value in security.items()
            }
            for info in (info for sockets in sections["servers"].values() for info in sockets.values()):
                info.pop("security", None)
        kept = _override(service, sections["servers"], servers)
        _rewrite_endpoints(service, sections["servers"], kept, directory)
        it = RunningService(service, Settings(sections))
        try:
            try:
                yield it
            finally:
                it._leave(graceful_timeout)
        except BaseException as error:
            it._fails_with(error)
            raise
    if it.failure is not None and not it._known:  # what the test has caught may be nothing that it expected
        raise it.failure
    left = [] if check is None else check.wait()
    if left:
        raise LeftBehind(f"{service!r} left behind:\n" + "\n".join(left))


class RunningService:
    """A service that runs for a test, and what is needed to talk to it: what `running` yields.

    `service` is the service. `failure` is the `ServiceFailing` why it does not run any longer, or None.

    A socket of it is named by its server and its own name, `echo.request`: that of the configuration, or the attribute
    that declares it.
    """

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.failure: ServiceFailing | None = None
        self._settings = settings
        self._told = False  # of the failure, in the greenlet of the test
        self._known = False  # the failure, to who wrote the test, or to who reads what it fails with
        self._inside = True
        self._greenlet: Any = getcurrent()
        mapper, service._config_mapper = service._config_mapper, _Mapper(settings)
        try:
            service.start(config_dict={})
        finally:
            service._config_mapper = mapper
        self._context = Context.new()
        self._context.socket("pair").close()  # it opens what it needs with its first socket: here, and not in the test
        self._inproc_context = service.context.for_thread()
        self._clients = contextlib.ExitStack()
        self._watcher = spawn_named(f"watch {service!r}", self._watch)

    @property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What each socket of each server is bound or connected to: a str, or a list if several."""
        return self.service.endpoints

    def endpoint(self, name: str) -> str:
        """What a socket is bound or connected to; the first one, if it is several."""
        return self._endpoints(name)[0]

    def server(self, name: str) -> Server:
        """The server of this name, which has to run in this process. Raises `LookupError`."""
        servers = self.service.servers
        if name not in self.service.server_classes:
            raise LookupError(f"the service has no server {name!r}; there are {', '.join(self.service.server_classes)}")
        if name not in servers:
            raise LookupError(f"server {name!r} runs in a process of its own, and cannot be looked into")
        return servers[name]

    def socket(self, name: str, socket_type: str | None = None, options: Options | None = None) -> Socket:
        """A new socket that talks to a socket of the service. It is closed when the service is left.

        Where the service is bound it is connected, and where the service connects to somebody else, it is bound in
        their place. Unless given, its type is the one that fits: a REQ for a REP, and so on. A SUB has subscribed to
        everything, and hears what is published after the service has learnt of that.
        """
        description = self._description(name)
        socket = self._context_for(name).socket(socket_type or _PEERS[description.socket_type], options)
        try:
            if description.binds:
                socket.connect(self.endpoint(name))
            else:
                for uri in self._endpoints(name):
                    socket.bind(uri)
            if socket.socket_type == "sub" and not socket.subscribed:
                socket.subscribe()
        except BaseException:
            socket.close(linger=0)
            raise
        return socket

    def client(self, name: str, **options: Any) -> Any:
        """A new client for a socket that the service binds: of `dploylib.clients`, the one that fits its type.

        `options` are what that takes, but for the endpoint and the context. It is closed when the service is left. A
        `ListeningClient` hears all that is published from now on. Raises `LookupError` where no client fits.
        """
        description = self._description(name)
        if not description.binds or description.socket_type not in _CLIENTS:
            raise LookupError(f"there is no client for {description!r}; talk to it by socket({name!r})")
        client = _CLIENTS[description.socket_type](self.endpoint(name), context=self._context_for(name), **options)
        if isinstance(client, PushClient):
            self._clients.callback(client.close, _LINGER)
        else:
            self._clients.callback(client.close)
        if isinstance(client, ListeningClient):
            client.wait_connected()
        return client

    def wait_for_failure(self, timeout: float = 10.0) -> ServiceFailing:
        """Wait until the service fails, and return with what: for a test in which it should.

        It is not raised any more then, not even when the service is left. Raises `TimeoutError` when the service runs
        for `timeout` seconds yet.
        """
        told, self._told = self._told, True
        self._watcher.join(timeout)
        if self.failure is None:
            self._told = told
            raise TimeoutError(f"{self.service!r} has not failed within {timeout:g} s")
        self._known = True
        return self.failure

    def __repr__(self) -> str:
        return f"<RunningService {self.service!r}>"

    def _description(self, name: str) -> SocketDescription:
        classes = self.service.server_classes
        server, _, socket = name.partition(".")
        configured = _configured_names(self.service, server).get(socket)
        if configured is None:
            there = [f"{server}.{one}" for server, cls in classes.items() for one in cls.description.socket_names]
            raise LookupError(f"the service has no socket {name!r}; there are {', '.join(there) or 'none'}")
        return next(one for one in classes[server].description.sockets.values() if one.name == configured)

    def _endpoints(self, name: str) -> list[str]:
        description = self._description(name)
        found = self.endpoints[name.partition(".")[0]][description.name]
        return [found] if isinstance(found, str) else list(found)

    def _context_for(self, name: str) -> Context:
        """The context for sockets that talk to this one."""
        if not self.endpoint(name).startswith("inproc://"):
            return self._context
        self.server(name.partition(".")[0])  # of one in another process, nobody else hears at such an endpoint
        return self._inproc_context

    def _watch(self) -> None:
        try:
            self.service.wait()
        except ServiceFailing as failure:
            self.failure = failure
            gevent.get_hub().loop.run_callback(self._tell)

    def _tell(self) -> None:
        """Raise the failure in the greenlet of the test. Called by the hub, so that one waits."""
        if self._inside and not self._told and not self._greenlet.dead:
            self._told = True
            self._greenlet.throw(self.failure)

    def _fails_with(self, error: BaseException) -> None:
        """Let who reads of this error of the test know of the failure by it."""
        if self.failure is not None:
            self._known = True
            if error is not self.failure:
                _mention(self.failure, error)

    def _leave(self, graceful_timeout: float) -> None:
        """End it, in whole also when another service of this greenlet fails meanwhile, which is raised then."""
        self._inside = False
        ending = spawn_named(f"stop {self.service!r}", self._end, graceful_timeout)
        interrupted: ServiceFailing | None = None
        while not ending.dead:
            try:
                ending.join()
            except ServiceFailing as failure:
                interrupted = failure
        ending.get()
        if interrupted is not None:
            raise interrupted

    def _end(self, graceful_timeout: float) -> None:
        try:
            self._clients.close()
            self._inproc_context.close(_LINGER)
            self._context.close(_LINGER)
        finally:
            self.service.stop(graceful_timeout)
            self._watcher.join()
            self.failure = self.failure or self._last_failure()

    def _last_failure(self) -> ServiceFailing | None:
        """Why the service would have failed, had it not been stopped a moment before that."""
        for run in self.service._coordinator._runs.values():
            if isinstance(run.error, ServerFailing) and self._settings.supervision(run.name).restart == "never":
                failure = ServiceFailing(str(run.error))
                failure.__cause__ = run.error.__cause__ or run.error
                return failure
        return None


@contextlib.contextmanager
def _checking(here: bool) -> Iterator[None]:
    before = _checked.get()
    _checked.set(here or before)
    try:
        yield
    finally:
        _checked.set(before)  # a token would be refused by a fixture that ends in another context


def _mention(failure: ServiceFailing, error: BaseException) -> None:
    """Let who reads of an error of the test know why that may be."""
    if sys.version_info >= (3, 11):
        error.add_note(f"the service had failed: {failure} (the cause: {failure.__cause__!r})")
    elif error.__context__ is None:
        error.__context__ = failure


class _Mapper:
    """Gives a service settings that are there already, in place of what its own mapper would load."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def process_dict(self, data: Mapping[str, Any], defaults: Defaults = ()) -> Settings:
        """The settings, whatever it is given."""
        return self._settings


def _sections(service: Service, config: Any, config_string: str | None) -> dict[str, Any]:
    """The configuration as a dict. Its placeholders are filled."""
    if config is not None and config_string is not None:
        raise TypeError("give the configuration as one of config and config_string")
    if config_string is not None:
        loaded = service._read("process_string", config_string)
    elif config is not None:
        loaded = service._read("process_dict" if isinstance(config, Mapping) else "process", config)
    elif service.default_settings:
        anywhere = {
            server: {socket.name: {"uri": _somewhere(server, socket)} for socket in cls.description.sockets.values()}
            for server, cls in service.server_classes.items()
        }
        loaded = service._read("process_dict", {}, below=[("running", {"servers": anywhere})])
    else:
        sockets: dict[str, Any] = {
            name: {socket: {} for socket in cls.description.socket_names}
            for name, cls in service.server_classes.items()
        }
        return {"servers": sockets, "supervision": {}, "security": {}, "settings": {}, "general": {}}
    return _as_dict(loaded.configuration)


def _as_dict(configuration: Any) -> dict[str, Any]:
    """A configuration with dicts in place of its Structs. What is in `settings` and `general` stays as it is."""
    asdict = msgspec.structs.asdict
    secured = configuration.security
    servers = {
        name: {
            socket: asdict(info) | {"security": info.security and asdict(info.security)}
            for socket, info in sockets.items()
        }
        for name, sockets in configuration.servers.items()
    }
    supervision = {name: asdict(policy) for name, policy in configuration.supervision.items()}
    return {
        "servers": servers,
        "supervision": supervision,
        "security": asdict(secured) | {"servers": {name: asdict(one) for name, one in secured.servers.items()}},
        "settings": configuration.settings,
        "general": configuration.general,
    }


def _override(
    service: Service, settings: dict[str, Any], given: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> set[tuple[str, str]]:
    """Put what is given into the settings of the servers. Returns the sockets whose endpoints are given.

    Names that nobody knows stay, for the check of the service to tell.
    """
    kept = set()
    for server, sockets in given.items():
        names = _configured_names(service, server)
        for socket, values in sockets.items():
            name = names.get(socket, socket)
            known = settings.setdefault(server, {})
            known[name] = {**known.get(name, {}), **values}
            if "uri" in values:
                kept.add((server, name))
    return kept


def _rewrite_endpoints(service: Service, settings: dict[str, Any], kept: set[tuple[str, str]], directory: str) -> None:
    """Put endpoints for the test in place of all those that are not to be kept."""
    uris: dict[str, list[str]] = {"bind": [], "connect": [], "kept": []}
    sockets: list[tuple[SocketDescription, dict[str, Any], list[str]]] = []
    for server, cls in service.server_classes.items():
        for description in cls.description.sockets.values():
            info = settings.get(server, {}).get(description.name)
            if info is None:  # which the check of the service tells
                continue
            uri = info.setdefault("uri", _somewhere(server, description))
            here = [uri] if isinstance(uri, str) else list(uri)
            if (server, description.name) in kept:
                uris["kept"] += here if description.binds else []
            else:
                uris[description.setup_type] += here
                sockets.append((description, info, here))
    rewriting = Rewriting(uris["bind"], uris["connect"], uris["kept"], directory)
    for sockets_of in settings.values():
        for info in sockets_of.values():
            info.setdefault("uri", ANYWHERE)  # of what is not declared, which the check of the service tells
    for description, info, here in sockets:
        info["uri"] = [(rewriting.of_bound if description.binds else rewriting.of_connected)(uri) for uri in here]


def _somewhere(server: str, socket: SocketDescription) -> str:
    """An endpoint for a socket that is given none."""
    return ANYWHERE if socket.binds else f"ipc://{server}.{socket.name}"


def _configured_names(service: Service, server: str) -> dict[str, str]:
    """The names by which the configuration knows the sockets of a server, by all their names."""
    cls = service.server_classes.get(server, Server)
    sockets = cls.description.sockets.items()
    return {attribute: one.name for attribute, one in sockets} | {one.name: one.name for _, one in sockets}
