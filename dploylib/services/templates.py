"""Templates: servers, with default settings, that a service takes over; and servers that they want from it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import ConfigurationProblem
from ..servers import Server

__all__ = ["Required", "ServiceTemplate", "Template", "required"]


class Required:
    """A server that a template does not have, and that has to be a `server_cls`: what `required` makes."""

    def __init__(self, server_cls: type[Server]) -> None:
        self.server_cls = server_cls

    def __repr__(self) -> str:
        return f"required({self.server_cls.__name__})"


def required(server_cls: type[Server] = Server) -> Required:
    """A server that the service has to add, or another template of it: of this class, or of a subclass.

    For example::

        class DeployTemplate(ServiceTemplate):
            servers = {"queue": QueueServer, "builder": required(Worker)}

    Raises `TypeError` for what is no `Server` class.
    """
    if not _is_server_class(server_cls):
        raise TypeError(f"required() takes a subclass of dploylib.servers.Server, not {server_cls!r}")
    return Required(server_cls)


Servers: TypeAlias = Mapping[str, type[Server] | Required | None]
"""Server classes by name; `required()` for what others have to add, None for what a base has and this has not."""


class ServiceTemplate:
    """Servers by name, and settings, which `Service(templates=[...])` has from the beginning.

    For example::

        class DeployTemplate(ServiceTemplate):
            servers = {"queue": QueueServer, "builder": required(Worker)}
            settings = {"servers": {"queue": {"put": {"uri": "tcp://127.0.0.1:14445"}}}}

    `settings` is a configuration that lies below the one of the service, which replaces its values one by one.

    A subclass has the servers and the settings of its bases, and its own over them, name by name; a server that is
    None there is left out. An instance may have more in attributes of its own, so that a template takes arguments.

    A server that the service adds replaces the one that a template has by that name; of several templates the last one
    counts. Settings of a template for a server are those of its own class, and of subclasses: they are left out when
    another one replaces it.
    """

    servers: Servers = MappingProxyType({})
    settings: Mapping[str, Any] = MappingProxyType({})


class Template:
    """What a template comes to: its servers, those that it requires, and its settings, one for each class with some.

    Raises `TypeError` for what cannot be a template.
    """

    def __init__(self, template: ServiceTemplate | type[ServiceTemplate]) -> None:
        cls = template if isinstance(template, type) else type(template)
        if not issubclass(cls, ServiceTemplate):
            raise TypeError(f"a template is a subclass of ServiceTemplate, or an object of one, not {template!r}")
        self.name = cls.__name__
        self.servers: dict[str, type[Server] | Required] = {}
        self._settings: list[tuple[str, Mapping[str, Any]]] = []
        for base in reversed(cls.__mro__):
            self._take(f"template {base.__name__}", vars(base))
        if template is not cls:
            self._take(f"template {self.name}", vars(template))

    def _take(self, owner: str, declared: Mapping[str, Any]) -> None:
        servers, settings = declared.get("servers", {}), declared.get("settings", {})
        for attribute, value in (("servers", servers), ("settings", settings)):
            if not isinstance(value, Mapping):
                raise TypeError(f"{owner}: {attribute} is a mapping, not {value!r}")
        for name, server in servers.items():
            if server is not None and not isinstance(server, Required) and not _is_server_class(server):
                raise TypeError(
                    f"{owner}: server {name!r} must be a subclass of dploylib.servers.Server, or required(), "
                    f"or None to leave out the one of a base; not {server!r}"
                )
            before = self.servers.pop(name, None)
            if before is None and server is None:
                raise TypeError(f"{owner}: no base has a server {name!r}, which this one is to be without")
            if before is not None and not _fits(server, before):
                self._settings = [(source, _without({name}, given)) for source, given in self._settings]
            if server is not None:
                self.servers[name] = server
        if settings:
            self._settings.append((owner, settings))

    @property
    def given(self) -> dict[str, type[Server]]:
        """The servers that it has itself."""
        return {name: server for name, server in self.servers.items() if not isinstance(server, Required)}

    def settings_for(self, classes: Mapping[str, type[Server]]) -> list[tuple[str, Mapping[str, Any]]]:
        """Its settings, each after what errors call it, without those of servers that are not what it names."""
        others = {name for name, server in self.servers.items() if not _fits(classes.get(name), server)}
        return [(source, _without(others, given)) for source, given in self._settings]

    def flaw(self, name: str, server_cls: type[Server]) -> str | None:
        """Why this class cannot be the server of that name; None when it can."""
        server = self.servers.get(name)
        if not isinstance(server, Required) or _fits(server_cls, server):
            return None
        return (
            f"server {name!r} must be a subclass of {server.server_cls.__name__}, as template {self.name} requires, "
            f"which {server_cls.__name__} is not"
        )

    def problems(self, classes: Mapping[str, type[Server]]) -> Iterator[ConfigurationProblem]:
        """What it requires of a service with these servers, and does not find."""
        for name, server in self.servers.items():
            if not isinstance(server, Required):
                continue
            if name in classes:
                message = self.flaw(name, classes[name])
            else:
                kind = "" if server.server_cls is Server else f", a subclass of {server.server_cls.__name__}"
                message = f"template {self.name} requires a server {name!r}{kind}: add it by add_server({name!r}, ...)"
            if message:
                yield ConfigurationProblem(f"servers.{name}", message, f"template {self.name}")


def _is_server_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Server)


def _fits(server: type[Server] | Required | None, named: type[Server] | Required) -> bool:
    """Whether a server is one of what a template names."""
    return server is not None and issubclass(_class_of(server), _class_of(named))


def _class_of(server: type[Server] | Required) -> type[Server]:
    return server.server_cls if isinstance(server, Required) else server


def _without(names: Collection[str], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """These settings, with nothing about servers of these names."""
    return {
        section: {name: given for name, given in value.items() if name not in names}
        if section != "general" and isinstance(value, Mapping)
        else value
        for section, value in settings.items()
    }
