"""The service: a set of servers run together from one configuration."""

from __future__ import annotations

import inspect
import logging
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, cast

import gevent
from gevent.event import Event

from ..config import Defaults, Placement, Settings, YAMLConfigMapper
from ..errors import ConfigurationError, ServerFailing, ServiceFailing, ServiceStateError
from ..servers import GRACEFUL_TIMEOUT, Hook, Server
from ..servers.server import checked_graceful_timeout
from ..statistics import ServerStatistics
from ..tracing import set_up
from ..transport import Context
from ..transport.spawning import call_in_hub
from .blocking import watch_for_blocking
from .checking import check
from .coordinator import GreenletServerCoordinator, ServerCoordinator
from .lifecycle import Lifecycle, State
from .signals import on_signals
from .templates import ServiceTemplate, Template

__all__ = ["Service"]

log = logging.getLogger(__name__)


class Service:
    """A set of servers that are run together from one configuration.

    For example::

        service = Service()
        service.add_server("echo", EchoServer)
        service.run(config_file="config.yaml")

    `templates` have servers, and settings, that it has from the beginning. `config_mapper` loads the configuration: a
    `YAMLConfigMapper`, unless given; with settings of templates, its methods have to take `defaults=` as those of that
    do. `coordinator` says where the servers run: a `GreenletServerCoordinator`, unless
    given. `hooks` are told what happens to the servers and their messages. What blocks a hub for more than
    `max_blocking` seconds is logged, by `run` and in threads and processes of servers; 0, as it is at first, logs
    nothing.

    A stop gives running handlers `graceful_timeout` seconds to finish, 30 at first, unless it says otherwise itself.

    `name` is what it is called in logs and traces, '' for what the section `daemon` of its configuration says. With
    `exports_traces` a start sets up OpenTelemetry as its environment variables say, if nobody else has.
    `placement` says which of the servers a start runs, where other processes run the others, or the same. `settings` is
    the configuration of the last start.

    A service can be used in `with`, which stops it, and be started again after it was stopped.
    """

    def __init__(
        self,
        templates: Iterable[ServiceTemplate | type[ServiceTemplate]] | None = None,
        config_mapper: Any = None,
        coordinator: ServerCoordinator | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        self._servers: dict[str, type[Server]] = {}
        self._templates = [Template(template) for template in templates or ()]
        self._config_mapper = config_mapper or YAMLConfigMapper()
        if coordinator is not None and not isinstance(coordinator, ServerCoordinator):
            raise TypeError(f"a coordinator is an object of a subclass of ServerCoordinator, not {coordinator!r}")
        self._coordinator = coordinator or GreenletServerCoordinator()
        self.max_blocking = 0.0
        self.graceful_timeout = GRACEFUL_TIMEOUT
        self.placement = Placement()
        self.name = ""
        self.default_name = "dploylib"
        self.exports_traces = False
        self._hooks: list[Hook] = []
        for hook in hooks:
            self.add_hook(hook)
        self._lifecycle = Lifecycle()
        self._hub: Any = None  # of the thread that started it
        self.settings: Settings | None = None
        self._on_settings: Callable[[Settings], None] = lambda settings: None
        self._start_over = Event()
        self._start_over.set()

    # What it consists of ---------------------------------------------------------------------------------------

    def add_server(self, name: str, server_cls: type[Server]) -> None:
        """Add a server, under the name by which the configuration knows it. It replaces the one of a template.

        Raises `ValueError` when there is one of that name, `TypeError` for what is no `Server` class, or not the one
        that a template requires.
        """
        if not (isinstance(server_cls, type) and issubclass(server_cls, Server)):
            raise TypeError(f"server {name!r} must be a subclass of dploylib.servers.Server, not {server_cls!r}")
        for flaw in filter(None, (template.flaw(name, server_cls) for template in self._templates)):
            raise TypeError(flaw)
        if name in self._servers:
            raise ValueError(f"this service has a server {name!r} already: {self._servers[name].__name__}")
        self._servers[name] = server_cls

    def add_hook(self, hook: Hook) -> None:
        """Let a hook hear of what happens, from the next start on. Raises `TypeError` for what is no `Hook`."""
        if not isinstance(hook, Hook):
            raise TypeError(f"a hook is an object of a subclass of dploylib.servers.Hook, not {hook!r}")
        self._hooks.append(hook)

    @property
    def server_classes(self) -> dict[str, type[Server]]:
        """The server classes by name: those of the templates, and those that were added, which win."""
        classes: dict[str, type[Server]] = {}
        for template in self._templates:
            classes.update(template.given)
        return classes | self._servers

    @property
    def default_settings(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The settings of the templates, the strongest last, each after what errors call it."""
        classes = self.server_classes
        return [settings for template in self._templates for settings in template.settings_for(classes)]

    @property
    def called(self) -> str:
        """Its name: that which it was given, or that of its configuration once that is known, or `default_name`."""
        return self.name or (self.default_name if self.settings is None else self.settings.service)

    @property
    def state(self) -> State:
        """What the service is doing."""
        return self._lifecycle.state

    def on_state(self, function: Callable[[State], None]) -> None:
        """Have a function called with each state that the service comes to from now on, instead of another one.

        It must neither wait nor raise.
        """
        self._lifecycle.on_change = function

    def on_settings(self, function: Callable[[Settings], None]) -> None:
        """Have a function called at each start with its configuration, before there are servers; in place of another.

        What it raises ends the start.
        """
        self._on_settings = function

    @property
    def servers(self) -> dict[str, Server]:
        """The servers of the last start by name, as far as they run in this process."""
        return self._coordinator.servers

    @property
    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What each socket of each server is bound or connected to, wildcards resolved: a str, or a list if several."""
        return {
            name: {socket: uris[0] if len(uris) == 1 else uris for socket, uris in endpoints.items()}
            for name, endpoints in self._coordinator.endpoints.items()
        }

    @property
    def restarts(self) -> dict[str, int]:
        """How often each server was started again since the last start of the service, by name."""
        return self._coordinator.restarts

    @property
    def server_states(self) -> dict[str, str]:
        """What each server is doing, by name: starting, running, stopping or stopped. Any thread may ask."""
        return self._coordinator.states

    def statistics(self) -> dict[str, ServerStatistics]:
        """What the servers of the last start have counted until now, by name. Any thread may ask."""
        return self._coordinator.statistics()

    @property
    def coordinator(self) -> ServerCoordinator:
        """What spawns the servers."""
        return self._coordinator

    @property
    def context(self) -> Context:
        """The context of the servers, in which their inproc endpoints are known.

        Raises `ServiceStateError` before the start.
        """
        return self._coordinator.context

    # Its life --------------------------------------------------------------------------------------------------

    def load(
        self,
        config_file: str | os.PathLike[str] | None = None,
        config_string: str | None = None,
        config_dict: Mapping[str, Any] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Settings:
        """Load a configuration and check it against the servers, as `start` does, but start nothing.

        One of the first three says where it is. `overrides` are values by dotted path, which replace its own. Raises
        `ConfigurationError` with everything that would not work.
        """
        sources = {"process": config_file, "process_string": config_string, "process_dict": config_dict}
        given = [(method, source) for method, source in sources.items() if source is not None]
        if len(given) != 1:
            raise TypeError("give the configuration as one of config_file, config_string and config_dict")
        [(method, source)] = given
        classes = self.server_classes
        problems = [problem for template in self._templates for problem in template.problems(classes)]
        missing = {problem.path for problem in problems} - {f"servers.{name}" for name in classes}
        cause = None
        try:
            settings = self._read(method, source, overrides)
        except ConfigurationError as error:
            settings, cause = error.usable, error.__cause__
            problems += error.problems
        if settings is not None:
            problems += [problem for problem in check(classes, settings) if problem.path not in missing]
        if problems:
            raise ConfigurationError(problems) from cause
        return settings

    def _read(
        self, method: str, source: Any, overrides: Mapping[str, str] | None = None, below: Defaults = ()
    ) -> Settings:
        """What the mapper makes of a configuration, above the settings of the templates, and these above `below`."""
        read = getattr(self._config_mapper, method)
        options: dict[str, Any] = {"overrides": overrides} if overrides else {}
        defaults = [*below, *self.default_settings]
        if defaults:
            options["defaults"] = defaults
            parameters = inspect.signature(read).parameters
            if "defaults" not in parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
                raise TypeError(
                    f"the config mapper {self._config_mapper!r} takes no settings of templates, but there are some "
                    f"({', '.join(name for name, _ in defaults)}): its method {method} needs the parameter defaults, "
                    "as that of YAMLConfigMapper has it"
                )
        return cast(Settings, read(source, **options))

    def start(
        self,
        config_file: str | os.PathLike[str] | None = None,
        config_string: str | None = None,
        config_dict: Mapping[str, Any] | None = None,
        overrides: Mapping[str, str] | None = None,
    ) -> Service:
        """Start the servers, and return the service when all of them are ready.

        The arguments are those of `load`. Raises `ConfigurationError`; what a server raised when it was set up
        (`AddressInUse`, say), and then none of them runs; `ServiceStateError` when the service runs already.
        """
        if self._coordinator.busy and self.state in (State.NEW, State.STOPPED):
            raise ServiceStateError("the coordinator of this service runs the servers of another one")
        self._lifecycle.become(State.STARTING)
        self._start_over.clear()
        self._hub = gevent.get_hub()
        try:
            settings = self.load(config_file, config_string, config_dict, overrides)
            if self.state is not State.STARTING:
                raise ServiceStateError("the service was stopped while it started")
            self.settings = settings
            settings.placement = self.placement
            settings.name, settings.default_name = self.name, self.default_name
            settings.exports_traces = self.exports_traces
            if self.exports_traces and self._coordinator.in_this_process:
                set_up(settings.service, settings.configuration.monitoring.tracing)
            self._on_settings(settings)
            classes = {name: cls for name, cls in self.server_classes.items() if self.placement.has(name)}
            self._coordinator.setup_servers(classes, settings, self._hooks, self.max_blocking)
            self._coordinator.start()
            self._lifecycle.become(State.RUNNING)
        except BaseException:
            self._coordinator.stop(0)  # undoes what was set up, and lets wait() return
            if self.state is State.STARTING:
                self._lifecycle.become(State.STOPPING)
            self._lifecycle.become(State.STOPPED)
            raise
        finally:
            self._start_over.set()
        self._tell_endpoints()
        return self

    def _tell_endpoints(self) -> None:
        """Log where the sockets are."""
        for name, endpoints in self._coordinator.endpoints.items():
            sockets = self.server_classes[name].description.sockets
            bound = {description.name for description in sockets.values() if description.binds}
            for socket, uris in endpoints.items():
                log.info("%s.%s %s %s", name, socket, "is at" if socket in bound else "connects to", ", ".join(uris))

    def wait(self) -> None:
        """Return when the service has been stopped. Raises `ServiceFailing` as soon as a server died for good."""
        if self.state in (State.NEW, State.STARTING):
            raise ServiceStateError(f"a service that is {self.state.value} cannot be waited for; start it first")
        try:
            self._coordinator.wait()
        except ServerFailing as error:
            raise ServiceFailing(str(error)) from (error.__cause__ or error)

    def stop(self, graceful_timeout: float | None = None) -> None:
        """Stop the servers and wait for that. Running handlers get `graceful_timeout` seconds to finish.

        None is what the attribute of that name says.

        Calling it again, from another greenlet or thread, can make that shorter; whoever calls it may be interrupted,
        and the stop goes on. A service that does not run is left as it is. Raises `ValueError` for what is no number
        from 0 on; infinity is one.
        """
        graceful_timeout = checked_graceful_timeout(
            self.graceful_timeout if graceful_timeout is None else graceful_timeout
        )
        if self.state in (State.NEW, State.STOPPED):
            return
        if self.state is not State.STOPPING:
            self._lifecycle.become(State.STOPPING)
        # In a greenlet of its own: it goes on when the caller is interrupted, and may be asked for in another thread.
        call_in_hub(self._hub, self._stop, graceful_timeout)

    def _stop(self, graceful_timeout: float) -> None:
        self._coordinator.stop(graceful_timeout)
        self._start_over.wait()  # whoever calls start() gets an error, and must be done with it
        if self.state is State.STOPPING:
            self._lifecycle.become(State.STOPPED)

    def run(self, *args: Any, **kwargs: Any) -> signal.Signals | None:
        """Start the service with these arguments, and serve until SIGINT or SIGTERM, or until it fails.

        Running handlers then have their time to finish; a second signal stops at once, and is returned. Raises what
        `start` and `wait` raise.
        """
        signals_seen: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            signals_seen.append(number)
            at_once = len(signals_seen) > 1
            how = "at once" if at_once else "when the running handlers are done; a second signal stops at once"
            log.info("%s: stopping %s", number.name, how)
            self.stop(0 if at_once else None)

        with on_signals((signal.SIGINT, signal.SIGTERM), stop), watch_for_blocking(self.max_blocking):
            try:
                self.start(*args, **kwargs)  # which undoes what it did when it fails
            except ServiceStateError:
                if not signals_seen:  # else a signal came while it started
                    raise
                return signals_seen[1] if len(signals_seen) > 1 else None
            try:
                self.wait()
            finally:
                self.stop()
        log.info("stopped")
        return signals_seen[1] if len(signals_seen) > 1 else None

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Service of {', '.join(self.server_classes) or 'no servers'}, {self.state.value}>"
