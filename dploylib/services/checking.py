"""What would fail at the start, found without binding anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from ..config import Settings, SocketSettings
from ..errors import ConfigurationProblem, TransportError
from ..servers import Server, SocketDescription
from ..transport import Context

__all__ = ["check"]

_Found = Iterator[tuple[tuple[str, ...], str]]


def check(servers: Mapping[str, type[Server]], settings: Settings) -> list[ConfigurationProblem]:
    """Everything in the settings that does not fit the servers, or that no socket would take."""
    problems = settings.check_declared({name: cls.description.socket_names for name, cls in servers.items()})
    bound: dict[str, str] = {}
    with Context.new() as context:
        for server, cls in servers.items():
            if server not in settings.server_names:
                continue
            infos = settings.server_info(server)
            for description in cls.description.sockets.values():
                info = infos.get(description.name)
                if info is None:
                    continue
                path = ("servers", server, description.name)
                for where, message in _socket_problems(
                    description, info, context, f"{server}.{description.name}", bound
                ):
                    problems.append(settings.problem((*path, *where), message))
    return problems


def _socket_problems(
    description: SocketDescription, info: SocketSettings, context: Context, owner: str, bound: dict[str, str]
) -> _Found:
    if description.input_handler is None:
        for key in ("concurrency", "timeout"):
            if getattr(info, key) is not None:
                yield (key,), f"{key} is for sockets with a handler, and {owner} has none"
    for option in info.option_pairs:
        try:
            description.create_socket(context, [], [option], info.concurrency).close(linger=0)
        except TransportError as error:
            yield ("options", option[0]), str(error)
    for uri in info.uris:
        message = _bind_problem(uri, owner, bound) if description.setup_type == "bind" else _connect_problem(uri)
        if message:
            yield ("uri",), message


def _bind_problem(uri: str, owner: str, bound: dict[str, str]) -> str | None:
    if uri.endswith((":*", ":0", "://*")):
        return None
    if uri in bound:
        return f"{bound[uri]} is to be bound to {uri} too"
    bound[uri] = owner
    transport, _, path = uri.partition("://")
    if transport == "ipc" and not path.startswith("@"):
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            return f"the directory {folder} of this ipc endpoint does not exist"
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the directory {folder} of this ipc endpoint is not writable"
    return None


def _connect_problem(uri: str) -> str | None:
    transport, _, address = uri.partition("://")
    host, _, port = address.rpartition(":")
    if transport == "tcp" and (port in ("*", "0") or host == "*"):
        return (
            f"{uri} has a wildcard, which is for binding; a connecting socket needs the host and the port of its peer"
        )
    if uri == "ipc://*":
        return f"{uri} has a wildcard, which is for binding; a connecting socket needs the path of its peer"
    return None
