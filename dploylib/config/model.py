"""What a configuration is: the typed model, and the `Settings` that servers and services ask.

The model is the only description of the configuration file. The checks, the messages of errors and the JSON
Schema all come from its types and their `Meta`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from ..errors import (
    ConfigurationError,
    ConfigurationProblem,
    ServerNotInConfiguration,
    SocketInfoNotInConfiguration,
)
from ..security.masked import MASK
from ..security.settings import Security, ServiceSecurity
from .checking import Checker
from .daemon import DaemonSettings
from .endpoints import TRANSPORTS, endpoint_flaw
from .meta import BY_NAME, Name, one_of
from .monitoring import MonitoringSettings
from .placement import Place, Placement
from .problems import Path, SourceMap, did_you_mean, looks_secret

__all__ = [
    "Configuration",
    "Declared",
    "OptionValue",
    "ServerSettings",
    "Settings",
    "SocketSettings",
    "Supervision",
    "json_schema",
]

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

_REQUIRED: Final[Any] = object()
OptionValue: TypeAlias = str | int | bool | float
"""What a socket option may be set to."""

_Endpoint: TypeAlias = Annotated[
    str,
    Meta(
        extra_json_schema={"pattern": rf"\$\{{|^({'|'.join(TRANSPORTS)})://."},
        extra={"flaw": endpoint_flaw},
    ),
]


_Overload: TypeAlias = Annotated[str, one_of("wait", "reject")]


class Declared(NamedTuple):
    """What a server class declares: the names of its `sockets`, which of them are `optional`, and its own settings."""

    sockets: Collection[str]
    optional: Collection[str] = ()
    settings_type: type[msgspec.Struct] | None = None


class SocketSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one socket of a server is set up."""

    uri: Annotated[
        _Endpoint | Annotated[list[_Endpoint], Meta(min_length=1)],
        Meta(description="The endpoint to bind or connect to, such as tcp://127.0.0.1:5000, or a list of them."),
    ]
    options: Annotated[
        dict[str, OptionValue] | list[tuple[str, OptionValue]],
        Meta(description="Socket options by lowercase name, or a list of [name, value] pairs."),
    ] = {}
    concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        Meta(description="How many handlers may run at once. Without it, what the server declares."),
    ] = None
    timeout: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Seconds after which a handler is given up. Without it, what the server declares."),
    ] = None
    overload: Annotated[
        _Overload | None,
        Meta(
            description="Whether messages wait while all handlers run, or are rejected with a problem. Without it, "
            "what the server declares."
        ),
    ] = None
    max_frames: Annotated[
        Annotated[int, Meta(ge=3, le=256)] | None,
        Meta(description="How many frames a message may have. Without it, what the server declares."),
    ] = None

    idempotent: Annotated[
        bool | None,
        Meta(
            description="Whether a message may be handled twice, so that another worker gets it when one dies with it. "
            "Without it, what the server declares."
        ),
    ] = None

    security: Annotated[
        Security | None,
        Meta(description="How this socket is secured. What is not said is as for its server, or the whole service."),
    ] = None

    @property
    def uris(self) -> list[str]:
        """The endpoints, of which there is at least one."""
        return [self.uri] if isinstance(self.uri, str) else list(self.uri)

    def __repr__(self) -> str:
        shown = {"options": [(name, MASK if looks_secret(name) else value) for name, value in self.option_pairs]}
        said = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) not in (None, {}, [])}
        return f"{type(self).__name__}({', '.join(f'{name}={shown.get(name, said[name])!r}' for name in said)})"

    @property
    def option_pairs(self) -> list[tuple[str, OptionValue]]:
        """Names and values of the options, in the order in which they are to be set."""
        return list(self.options.items() if isinstance(self.options, dict) else self.options)


class Supervision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens when one server dies."""

    restart: Annotated[
        Annotated[str, one_of("never", "on-failure")],
        Meta(description="Whether the server is started again. Otherwise the service fails."),
    ] = "never"
    intensity: Annotated[
        Annotated[int, Meta(ge=1)],
        Meta(description="How often it may be started again within the period. One death more, and the service fails."),
    ] = 5
    period: Annotated[Annotated[float, Meta(gt=0)], Meta(description="The period, in seconds.")] = 60.0
    backoff: Annotated[
        Annotated[float, Meta(ge=0)],
        Meta(description="Seconds before it is started again. They double with each time within the period."),
    ] = 0.1
    backoff_limit: Annotated[
        Annotated[float, Meta(ge=0)], Meta(description="The most seconds that the doubling comes to.")
    ] = 10.0


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration of a dploylib service."""

    servers: Annotated[
        dict[Name, Annotated[dict[Name, SocketSettings], Meta(extra_json_schema=BY_NAME)]],
        Meta(
            description="The servers of the service by name, and the sockets of each by name.",
            extra_json_schema=BY_NAME,
        ),
    ]
    supervision: Annotated[
        dict[Name, Supervision],
        Meta(description="What happens when a server dies, by the name of the server.", extra_json_schema=BY_NAME),
    ] = {}
    security: Annotated[
        ServiceSecurity,
        Meta(description="How the sockets are secured: encrypted, and for whom."),
    ] = ServiceSecurity()
    daemon: Annotated[
        DaemonSettings,
        Meta(description="How dploylib serve runs the service."),
    ] = DaemonSettings()
    monitoring: Annotated[
        MonitoringSettings,
        Meta(description="What the service tells of itself, and to whom."),
    ] = MonitoringSettings()
    settings: Annotated[
        dict[Name, dict[str, Any]],
        Meta(description="What each server has to know for itself, by its name.", extra_json_schema=BY_NAME),
    ] = {}
    general: Annotated[
        dict[str, Any],
        Meta(description="Whatever the servers want to know besides. dploylib does not look into it."),
    ] = {}

    def __repr__(self) -> str:
        return f"<Configuration servers={list(self.servers)}>"  # nobody knows what is in the rest; see `as_yaml`


def json_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of the configuration file as it is written: placeholders are not yet filled."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dploylib configuration",
        **_as_written(msgspec.json.schema(Configuration)),
    }


def _as_written(schema: Any) -> Any:
    """Let an empty section be null, and a number be a placeholder."""
    if isinstance(schema, list):
        return [_as_written(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    written = {key: _as_written(part) for key, part in schema.items()}
    if schema.get("type") == "object" and "required" not in schema:
        return written | {"type": ["object", "null"]}
    if schema.get("type") in ("integer", "number"):
        described = {"description": written.pop("description")} if "description" in written else {}
        return described | {"anyOf": [written, {"type": "string", "pattern": r"\$\{"}]}
    return written


class Settings:
    """A configuration that was checked, and where each part of it was written.

    `security_is_known` is False when its section `security` is wrong, so that nobody knows what sockets are to have.
    `placement` says which of the servers run in this process: all of them, unless it was set. `name` is what the
    service is called, if not as the section `daemon` says; `exports_traces` whether processes of it set up what
    exports spans.
    """

    def __init__(
        self, data: object, sources: SourceMap | None = None, problems: Iterable[ConfigurationProblem] = ()
    ) -> None:
        """Check `data`: a mapping like `Configuration`, taken as it is, with no placeholders filled.

        The loader passes `sources`, and the `problems` that it found itself. Raises ConfigurationError with all
        problems, those of the loader included.
        """
        self._sources = sources or SourceMap("dict")
        found = list(problems)
        checker = Checker(lambda path, message: found.append(self.problem(path, message)), self._sources.placeholders)
        checked = checker.check(data, Configuration)
        self._broken: dict[str, list[str]] = {}
        self.placement = Placement()
        self.name = ""
        self.default_name = "dploylib"
        self.exports_traces = False
        self.security_is_known = not any(problem.path.partition(".")[0] == "security" for problem in found)
        if found:
            raise ConfigurationError(found, self._without_broken_parts(checked))
        self._configuration = msgspec.convert(checked, Configuration)

    def _without_broken_parts(self, checked: Any) -> Settings | None:
        """These settings with only those sockets that can be used; `_broken` has the names of the others, by server."""
        servers = checked.get("servers") if isinstance(checked, Mapping) else None
        if not isinstance(servers, Mapping) or not all(isinstance(sockets, Mapping) for sockets in servers.values()):
            return None
        usable: dict[str, dict[str, SocketSettings]] = {server: {} for server in servers}
        for server, sockets in servers.items():
            for socket, data in sockets.items():
                try:
                    usable[server][socket] = msgspec.convert(data, SocketSettings)
                except msgspec.ValidationError:
                    self._broken.setdefault(server, []).append(socket)
        sections = checked.get("settings")
        whole = isinstance(sections, dict) and all(isinstance(section, dict) for section in sections.values())
        try:
            security = msgspec.convert(checked.get("security", {}), ServiceSecurity)
        except msgspec.ValidationError:
            security = ServiceSecurity()
        self._configuration = Configuration(servers=usable, settings=sections if whole else {}, security=security)
        return self

    def __repr__(self) -> str:
        return f"<Settings servers={self.server_names}>"

    @property
    def configuration(self) -> Configuration:
        """The typed model."""
        return self._configuration

    @property
    def service(self) -> str:
        """What the service is called."""
        return self.name or self.configuration.daemon.name or self.default_name

    @property
    def server_names(self) -> list[str]:
        """The servers that the configuration has, in its order."""
        return list(self._configuration.servers)

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of `key` in `general`. KeyError if it is not there and there is no `default`."""
        general = self._configuration.general
        if key not in general and default is _REQUIRED:
            raise KeyError(f"no {key!r} in the section 'general'{did_you_mean(key, general, 'known keys')}")
        return general.get(key, default)

    def server_info(self, server: str) -> dict[str, SocketSettings]:
        """The sockets of a server by name. Raises ServerNotInConfiguration."""
        servers = self._configuration.servers
        if server not in servers:
            raise ServerNotInConfiguration(
                f"no server {server!r} in the configuration{did_you_mean(server, servers, 'servers')}"
            )
        return servers[server]

    def socket_info(self, server: str, socket: str) -> SocketSettings:
        """The settings of a socket. Raises ServerNotInConfiguration or SocketInfoNotInConfiguration."""
        sockets = self.server_info(server)
        if socket not in sockets:
            raise SocketInfoNotInConfiguration(
                f"no socket {socket!r} of server {server!r} in the configuration"
                f"{did_you_mean(socket, sockets, 'sockets')}"
            )
        return sockets[socket]

    def supervision(self, server: str) -> Supervision:
        """What happens when this server dies."""
        return self._configuration.supervision.get(server, Supervision())

    def security(self, server: str, socket: str) -> Security:
        """How a socket is secured: as it, its server, or the service says. Raises what `socket_info` raises."""
        service = self._configuration.security
        of_server = service.servers.get(server, Security()).over(service)
        own = self.socket_info(server, socket).security
        return of_server if own is None else own.over(of_server)

    def security_path(self, server: str, socket: str, setting: str | None) -> Path:
        """Where that comes from: the path of a setting, or of the section where it is missing."""
        of_socket: Path = ("servers", server, socket)
        service = self._configuration.security
        own = self.socket_info(server, socket).security
        sections: list[tuple[Path, Security | None]] = [
            ((*of_socket, "security"), own),
            (("security", "servers", server), service.servers.get(server)),
            (("security",), service),
        ]
        if setting is not None:
            for path, section in sections:
                if section is not None and getattr(section, setting) is not None:
                    return (*path, setting)
        return of_socket if own is None else (*of_socket, "security")

    def server_settings(self, server: str) -> ServerSettings:
        """What one server gets to see. Raises ServerNotInConfiguration."""
        self.server_info(server)
        return ServerSettings(server, self)

    def own(self, server: str, kind: type[_Struct]) -> _Struct:
        """The section of `settings` for a server, as a `kind`. Raises ConfigurationError for what is none."""
        found, checked = self._checked_section(server, kind)
        if found:
            raise ConfigurationError(found)
        return msgspec.convert(checked, kind)

    def _checked_section(self, server: str, kind: type[msgspec.Struct]) -> tuple[list[ConfigurationProblem], Any]:
        found: list[ConfigurationProblem] = []
        checker = Checker(lambda path, message: found.append(self.problem(path, message)), self._sources.placeholders)
        section = self._configuration.settings.get(server, {})
        return found, checker.check(section, kind, ("settings", server))

    def problem(self, path: Sequence[str], message: str) -> ConfigurationProblem:
        """A problem at `path` with the source and line of that path, or of its nearest ancestor that was written."""
        return self._sources.problem(tuple(path), message)

    def check_declared(self, declared: Mapping[str, Declared]) -> list[ConfigurationProblem]:
        """Compare the configuration with what the servers of the service declare.

        Returns a problem for every server and socket that only one of the two has, and for settings of a server that
        are not what it declares.
        """
        configured = {
            server: [*sockets, *self._broken.get(server, ())] for server, sockets in self._configuration.servers.items()
        }
        differences = list(_differences((), "server", "the service", declared, configured))
        for server in (name for name in declared if name in configured):
            owner = f"server {server!r}"
            known = declared[server]
            differences += _differences((server,), "socket", owner, known.sockets, configured[server], known.optional)
        problems = [self.problem(("servers", *path), message) for path, message in differences]
        for name in (name for name in self._configuration.supervision if name not in declared):
            hint = did_you_mean(name, declared, "servers")
            problems.append(self.problem(("supervision", name), f"the service has no server {name!r}{hint}"))
        for name in (name for name in self._configuration.security.servers if name not in declared):
            hint = did_you_mean(name, declared, "servers")
            problems.append(self.problem(("security", "servers", name), f"the service has no server {name!r}{hint}"))
        for server, known in declared.items():
            if known.settings_type is not None:
                problems += self._checked_section(server, known.settings_type)[0]
        for name in (name for name in self._configuration.daemon.servers if name not in declared):
            hint = did_you_mean(name, declared, "servers")
            problems.append(self.problem(("daemon", "servers", name), f"the service has no server {name!r}{hint}"))
        for name in self._configuration.settings:
            path = ("settings", name)
            if name not in declared:
                hint = did_you_mean(name, declared, "servers")
                problems.append(self.problem(path, f"the service has no server {name!r}{hint}"))
            elif declared[name].settings_type is None:
                problems.append(self.problem(path, f"server {name!r} declares no settings of its own"))
        return problems


def _differences(
    path: Path,
    what: str,
    owner: str,
    declared: Collection[str],
    configured: Collection[str],
    optional: Collection[str] = (),
) -> Iterator[tuple[Path, str]]:
    for name in (name for name in declared if name not in configured and name not in optional):
        hint = did_you_mean(name, configured, f"configured {what}s")
        yield (*path, name), f"{owner} has a {what} {name!r} that the configuration lacks{hint}"
    for name in (name for name in configured if name not in declared):
        hint = did_you_mean(name, declared, f"declared {what}s")
        yield (*path, name), f"the configuration has a {what} {name!r} that {owner} lacks{hint}"


class ServerSettings:
    """What one server gets to see of the settings: its own sockets and settings, and `general`."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self._settings = settings
        self._resolved: dict[str, list[str]] = {}

    def __repr__(self) -> str:
        return f"<ServerSettings {self.name!r} sockets={self.socket_names}>"

    @property
    def socket_names(self) -> list[str]:
        """The sockets that the configuration has for this server, in its order."""
        return list(self._settings.server_info(self.name))

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value of `key` in `general`. KeyError if it is not there and there is no `default`."""
        return self._settings.get(key, default)

    def own(self, kind: type[_Struct]) -> _Struct:
        """The section of `settings` for this server, as a `kind`. Raises ConfigurationError for what is none."""
        return self._settings.own(self.name, kind)

    def socket_info(self, socket: str) -> SocketSettings:
        """The settings of a socket of this server. Raises SocketInfoNotInConfiguration."""
        info = self._settings.socket_info(self.name, socket)
        uris = self._resolved.get(socket)
        return info if uris is None else msgspec.structs.replace(info, uri=uris)

    @property
    def service(self) -> str:
        """What the service is called."""
        return self._settings.service

    @property
    def exports_traces(self) -> bool:
        """Whether the process that it runs in sets up what exports spans."""
        return self._settings.exports_traces

    @property
    def monitoring(self) -> MonitoringSettings:
        """What the service tells of itself."""
        return self._settings.configuration.monitoring

    def place(self, socket: str) -> Place:
        """Where a bound socket of this server really is."""
        return self._settings.placement.place(self.name, socket)

    def security(self, socket: str) -> Security:
        """How a socket of this server is secured. Raises SocketInfoNotInConfiguration."""
        return self._settings.security(self.name, socket)

    def at(self, endpoints: Mapping[str, list[str]]) -> ServerSettings:
        """The same settings, with the tcp endpoints that wildcards became before: a restarted server is found there."""
        other = ServerSettings(self.name, self._settings)
        for socket, uris in endpoints.items():
            if uris and socket in self.socket_names and all(uri.startswith("tcp://") for uri in uris):
                other._resolved[socket] = uris
        return other
