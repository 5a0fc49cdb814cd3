"""What would fail at the start, found without binding to an endpoint of the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import zmq

from ..config import Settings, SocketSettings
from ..errors import ConfigurationProblem, SecurityError, TransportError
from ..ipc_lock import is_no_socket
from ..security import Credentials, leaves_machine
from ..security.credentials import unreadable
from ..servers import Server, SocketDescription
from ..transport import Context

__all__ = ["check"]

_T = TypeVar("_T")
_Found = Iterator[tuple[tuple[str, ...], str]]

_UNENCRYPTED = (
    "nothing is encrypted, and whoever is on the way to other machines can read and change it: secure it with CURVE "
    "(see dploylib keygen, and security in the configuration), use 127.0.0.1 or ipc, or say insecure: true in security"
)
_FOR_BOUND = (
    "authorized_keys",
    "passwords",
    "groups",
    "allow",
    "deny",
    "max_connections_per_address",
    "ipc_permissions",
)
_FOR_CONNECTING = ("server_key", "username", "password")
_ANYWHERE = "tcp://*:*"
_ALWAYS_THERE = ("tcp", "ipc", "inproc", "udp")
_MULTICAST_TYPES = ("pub", "sub", "xpub", "xsub")


def check(servers: Mapping[str, type[Server]], settings: Settings) -> list[ConfigurationProblem]:
    """Everything in the settings that does not fit the servers, or that no socket would take."""
    problems = settings.check_declared({name: cls.description.declared for name, cls in servers.items()})
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
                owner = f"{server}.{description.name}"
                found = [
                    ((*path, *where), message)
                    for where, message in _socket_problems(description, info, context, owner, bound)
                ]
                if settings.security_is_known:
                    if not any(where == (*path, "uri") for where, _ in found):
                        found += _exposure_problems(settings, server, description, info)
                    found += _security_problems(settings, server, description, info)
                problems += [settings.problem(where, message) for where, message in found]
    return list(dict.fromkeys(problems))  # what is wrong for all sockets is told once


def _security_problems(settings: Settings, server: str, description: SocketDescription, info: SocketSettings) -> _Found:
    socket = description.name
    security = settings.security(server, socket)
    for setting in _FOR_CONNECTING if description.binds else _FOR_BOUND:
        if info.security is not None and getattr(info.security, setting) is not None:
            which, does = ("that connect", "is bound") if description.binds else ("that are bound", "connects")
            path = ("servers", server, socket, "security", setting)
            yield path, f"{setting} is for sockets {which}, and {server}.{socket} {does}"
    try:
        errors = list(unreadable(security, description.binds))
        credentials = None if errors else Credentials(security)
    except SecurityError as error:
        errors, credentials = [error], None
    gate = None
    if credentials is not None and description.binds:
        _made(credentials.bind_options, errors)
        gate = _made(credentials.gate, errors)
    elif credentials is not None and any(not uri.startswith("inproc:") for uri in info.uris):
        _made(credentials.connect_options, errors)
    for flaw in errors:
        yield settings.security_path(server, socket, flaw.setting), str(flaw)
    if credentials is None or errors or description.groups is None:
        return
    if gate is None or not gate.names_peers:
        groups = ", ".join(sorted(description.groups))
        found = "authorized_keys is any" if credentials.mechanism == "curve" else "mechanism is none"
        yield (
            settings.security_path(server, socket, None),
            f"the handler is for {groups}, and nobody is known by name here: security needs a list of authorized_keys, "
            f"or passwords, but {found}",
        )


def _made(make: Callable[[], _T], errors: list[SecurityError]) -> _T | None:
    """What a function returns. When it raises an error, that is put to the others."""
    try:
        return make()
    except SecurityError as error:
        errors.append(error)
        return None


def _exposure_problems(settings: Settings, server: str, description: SocketDescription, info: SocketSettings) -> _Found:
    socket = description.name
    security = settings.security(server, socket)
    try:
        credentials = Credentials(security)
    except SecurityError:  # which is told elsewhere
        return
    options = {name.lower(): value for name, value in [*description.default_options, *info.option_pairs]}
    raw = description.socket_type == "stream" or options.get("router_raw")
    # Where it really is: a proxy may be anywhere, and a descriptor that was opened elsewhere has an address of its own.
    elsewhere = bool(options.get("socks_proxy")) or "use_fd" in options
    for uri in info.uris:
        if uri.startswith("inproc:"):
            continue
        place = _ANYWHERE if elsewhere else uri
        flaw = (credentials.flaw_of_raw if raw else None) or credentials.flaw_of(place)
        if flaw is None and credentials.mechanism == "none" and not security.insecure and leaves_machine(place):
            flaw = _UNENCRYPTED
        if flaw is not None:
            yield ("servers", server, socket, "uri"), f"{uri}: {flaw}"


def _socket_problems(
    description: SocketDescription, info: SocketSettings, context: Context, owner: str, bound: dict[str, str]
) -> _Found:
    if description.input_handler is None:
        for key in ("concurrency", "timeout", "overload"):
            if getattr(info, key) is not None:
                yield (key,), f"{key} is for sockets with a handler, and {owner} has none"
    elif info.overload == "reject" and (flaw := description.overload_flaw(info.overload)):
        yield ("overload",), flaw
    options = []
    for option in info.option_pairs:
        try:
            description.create_socket(context, [], [option], info.concurrency).close(linger=0)
            options.append(option)
        except TransportError as error:
            yield ("options", option[0]), str(error)
    for uri in info.uris:
        message = _transport_problem(uri, description.socket_type)
        if message is None and description.setup_type == "bind":
            message = _shared_problem(uri, owner, bound) or _ipc_problem(uri)
        elif message is None:
            message = _wildcard_problem(uri)
        if message is None:
            message = _refusal(description, info, context, options, uri)
        if message:
            yield ("uri",), message


def _transport_problem(uri: str, socket_type: str) -> str | None:
    transport = uri.partition("://")[0]
    capability = "pgm" if transport == "epgm" else transport
    if transport not in _ALWAYS_THERE and not (zmq.has(capability) or zmq.has(capability.upper())):
        return f"this libzmq has no {transport} transport"
    if transport == "udp" or (capability == "pgm" and socket_type not in _MULTICAST_TYPES):
        return f"a {socket_type} socket does not work over {transport}"
    return None


def _shared_problem(uri: str, owner: str, bound: dict[str, str]) -> str | None:
    if uri.endswith((":*", ":0", "://*")):
        return None
    if uri in bound:
        return f"{bound[uri]} is to be bound to {uri} too"
    bound[uri] = owner
    return None


def _ipc_problem(uri: str) -> str | None:
    transport, _, path = uri.partition("://")
    if transport != "ipc" or path == "*" or path.startswith("@"):
        return None
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        return f"the directory {folder} of this ipc endpoint does not exist"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the directory {folder} of this ipc endpoint is not writable"
    return f"{path} exists, and is no socket" if is_no_socket(path) else None


def _refusal(
    description: SocketDescription, info: SocketSettings, context: Context, options: list[Any], uri: str
) -> str | None:
    """What libzmq says against a tcp endpoint."""
    if not uri.startswith("tcp://"):
        return None
    elsewhere = f"{uri.rpartition(':')[0]}:*"  # any other port of the same host
    try:
        if description.setup_type == "bind":
            with description.create_socket(context, [], options, info.concurrency) as socket:
                socket.bind(elsewhere)
        else:  # a SUB without subscriptions is sent nothing by a peer of any type, which would be lost
            with context.socket("sub", {"linger": 0}) as socket:
                socket.connect(uri)
    except TransportError as error:
        return str(error).replace(elsewhere, uri)
    return None


def _wildcard_problem(uri: str) -> str | None:
    transport, _, address = uri.partition("://")
    host, _, port = address.rpartition(":")
    if transport == "tcp" and (port in ("*", "0") or host == "*"):
        return (
            f"{uri} has a wildcard, which is for binding; a connecting socket needs the host and the port of its peer"
        )
    if uri == "ipc://*":
        return f"{uri} has a wildcard, which is for binding; a connecting socket needs the path of its peer"
    return None
