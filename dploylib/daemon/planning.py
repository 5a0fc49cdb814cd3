"""What there is to run: found out from the service and its configuration, in a process that runs nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ..config.daemon import DaemonSettings
from ..config.monitoring import address_of
from ..errors import ConfigurationError, ConfigurationProblem
from .lane import Lane
from .listeners import Listening

if TYPE_CHECKING:
    from ..config import Settings
    from ..servers.declare import SocketDescription
    from ..services import Service

__all__ = ["Plan", "make_plan"]

# Several processes have such a socket at one endpoint, and whoever connects gets to one of them. That is all the same
# to who sends, but not to who waits for what we send; nor are there peers for everybody who sends.
_FOR_ONE = {
    "pub": "a subscriber would hear one of them only",
    "xpub": "a subscriber would hear one of them only",
    "push": "one without a peer would have nobody to push to",
    "req": "one without a peer would have nobody to ask",
    "dealer": "one without a peer would have nobody to send to",
    "pair": "it has one peer",
}
_FRONTED = ("rep", "router", "pull")
_SHARED = ("tcp", "ipc")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of a daemon run."""

    daemon: DaemonSettings
    """The settings that count: those of the command line above those of the configuration."""
    shared: list[str]
    """The servers that every worker runs."""
    single: list[str]
    """The servers that one process runs."""
    listening: list[Listening]
    """The endpoints at which sockets listen."""
    lanes: list[Lane]
    """The sockets whose connections a front has."""
    http: tuple[str, int] | None
    """Where the HTTP side is; None where there is none."""
    digests: dict[str, str]
    """What each setting is, by dotted path, in a way that shows only whether it has changed."""

    @property
    def workers(self) -> int:
        """How many workers there are to be."""
        return self.daemon.workers or 1

    @property
    def balance(self) -> str:
        """What is spread over them."""
        return "messages" if self.lanes else "connections"

    def with_backends(self, run_dir: str) -> Plan:
        """The same, with the endpoints at which workers find their lanes: short ones, since such paths must be."""
        return msgspec.structs.replace(self, lanes=[_with_backend(lane, run_dir) for lane in self.lanes])


def make_plan(service: Service, settings: Settings, given: Mapping[str, Any]) -> Plan:
    """The plan for a service with these settings; `given` are those of the command line.

    Raises `ConfigurationError` for what cannot be shared.
    """
    said = {name: value for name, value in given.items() if value is not None}
    daemon = msgspec.structs.replace(settings.configuration.daemon, **said)
    daemon = msgspec.structs.replace(daemon, workers=daemon.workers or int(os.environ.get("WEB_CONCURRENCY") or 1))
    placing = _Placing(service, settings, daemon)
    if placing.problems:
        raise ConfigurationError(placing.problems)
    return Plan(
        daemon=daemon,
        shared=[name for name in service.server_classes if name not in placing.single],
        single=[name for name in service.server_classes if name in placing.single],
        listening=placing.listening,
        lanes=placing.lanes,
        http=address_of(settings.configuration.monitoring),
        digests=dict(_digests(msgspec.to_builtins(settings.configuration), ())),
    )


class _Placing:
    """Finds out which servers may be in several processes, and which of their sockets need what for that."""

    def __init__(self, service: Service, settings: Settings, daemon: DaemonSettings) -> None:
        self.problems: list[ConfigurationProblem] = []
        self._settings = settings
        self._classes = service.server_classes
        self._workers = daemon.workers or 1
        if not service.coordinator.in_this_process:
            self._complain((), f"{service.coordinator!r} starts processes of its own, and so does dploylib serve")
        self.single = self._find_single(daemon)
        self._check_shared()
        self._check_inproc()
        self.listening = list(self._listening())
        self.lanes = list(self._lanes()) if self._balances_messages(daemon) else []

    def _complain(self, path: tuple[str, ...], message: str) -> None:
        self.problems.append(self._settings.problem(path, message))

    def _sockets(self) -> Iterator[tuple[str, SocketDescription, list[str]]]:
        """Each socket that is configured: its server, what is declared, its endpoints."""
        for server, cls in self._classes.items():
            infos = self._settings.server_info(server)
            for description in cls.description.sockets.values():
                if description.name in infos:
                    yield server, description, infos[description.name].uris

    def _bound(self) -> Iterator[tuple[str, SocketDescription, str]]:
        """Each endpoint that is bound, and may be reached from other processes."""
        for server, description, uris in self._sockets():
            for uri in uris if description.binds else ():
                if not uri.startswith("inproc:"):
                    yield server, description, uri

    def _find_single(self, daemon: DaemonSettings) -> set[str]:
        single = {name for name, cls in self._classes.items() if cls.single or name in daemon.servers}
        if self._workers > 1:
            return single
        # With one worker nothing needs to be said: what cannot be shared is in one process, and workers can be added.
        single |= {server for server, description, uri in self._bound() if _unshareable(description, uri)}
        together = self._sharing_inproc()
        while more := {other for server in single for other in together.get(server, ())} - single:
            single |= more
        return single

    def _check_shared(self) -> None:
        for server, description, uri in self._bound():
            if server not in self.single and (why := _unshareable(description, uri)):
                self._complain(
                    ("servers", server, description.name),
                    f"{server}.{description.name} is a bound {description.socket_type} socket, and {self._workers} "
                    f"workers cannot share it: {why}. Let the server run in one process, by daemon: {{servers: "
                    f"{{{server}: {{workers: 1}}}}}}, or connect the socket to a ForwarderServer",
                )

    def _sharing_inproc(self) -> dict[str, set[str]]:
        """By server, those with which it has an inproc endpoint in common."""
        users: dict[str, set[str]] = {}
        for server, _, uris in self._sockets():
            for uri in uris:
                if uri.startswith("inproc:"):
                    users.setdefault(uri, set()).add(server)
        return {
            server: set().union(*(group for group in users.values() if server in group)) for server in self._classes
        }

    def _check_inproc(self) -> None:
        together = self._sharing_inproc()
        for server, description, uris in self._sockets():
            elsewhere = sorted(together[server] - self.single if server in self.single else ())
            if elsewhere and (inproc := [uri for uri in uris if uri.startswith("inproc:")]):
                self._complain(
                    ("servers", server, description.name, "uri"),
                    f"{inproc[0]} is known within one process only, and server {server!r} runs in another one than "
                    f"{elsewhere[0]!r}, which has it too: use ipc:// or tcp://, or let both run in one process",
                )

    def _listening(self) -> Iterator[Listening]:
        from ..security import Credentials

        for server, description, uri in self._bound():
            if uri.partition(":")[0] in _SHARED:
                security = self._settings.security(server, description.name)
                yield Listening(
                    owner=f"{server}.{description.name}",
                    uri=uri,
                    permissions=Credentials(security).ipc_permissions,
                    ipv6=bool(dict(self._options(server, description)).get("ipv6")),
                )

    def _options(self, server: str, description: SocketDescription) -> list[tuple[str, Any]]:
        info = self._settings.socket_info(server, description.name)
        pairs = [*description.default_options, *info.option_pairs]
        return [(name.lower(), value.decode() if isinstance(value, bytes) else value) for name, value in pairs]

    def _balances_messages(self, daemon: DaemonSettings) -> bool:
        return (daemon.balance or ("messages" if self._workers > 1 else "connections")) == "messages"

    def _lanes(self) -> Iterator[Lane]:
        """The sockets whose messages a front can hand out: any worker may get each.

        Not the routers of servers of which there is one: their peers talk to that one, and begin anew with the next,
        which they would not notice.
        """
        for server, description, uris in self._sockets():
            if not (description.binds and description.socket_type in _FRONTED and description.input_handler):
                continue
            if description.socket_type == "router" and server in self.single:
                continue
            if not all(uri.partition(":")[0] in _SHARED for uri in uris):
                continue  # what is asked within the process stays there
            info = self._settings.socket_info(server, description.name)
            yield Lane(
                server=server,
                socket=description.name,
                socket_type=description.socket_type,
                uris=tuple(uris),
                backend="",  # where the run directory is, the arbiter knows
                options=tuple(self._options(server, description)),
                concurrency=info.concurrency or description.concurrency,
                max_frames=info.max_frames or description.max_frames,
                security=self._settings.security(server, description.name),
                idempotent=description.idempotent if info.idempotent is None else info.idempotent,
                rejects=(info.overload or description.overload) == "reject",
            )


def _unshareable(description: SocketDescription, uri: str) -> str | None:
    """Why several processes cannot have a socket that is bound there; None when they can."""
    transport = uri.partition(":")[0]
    if transport not in _SHARED:
        return f"libzmq takes no listening socket over for {transport}"
    if description.socket_type == "dealer" and description.input_handler is not None:
        return None
    return _FOR_ONE.get(description.socket_type)


def _with_backend(lane: Lane, run_dir: str) -> Lane:
    name = hashlib.sha256(f"{lane.server}.{lane.socket}".encode()).hexdigest()[:8]
    return msgspec.structs.replace(lane, backend=f"ipc://{os.path.join(run_dir, name)}")


def _digests(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _digests(one, (*path, str(key)))
    elif path and value not in (None, {}, []):
        text = msgspec.json.encode(value, order="sorted")
        yield ".".join(path), hashlib.sha256(text).hexdigest()[:16]
