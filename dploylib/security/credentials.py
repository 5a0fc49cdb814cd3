"""What a socket proves who it is with, and whom it lets in: settings of `Security`, with their files read."""

from __future__ import annotations

import functools
import hmac
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..errors import SecurityError
from .authorized import AuthorizedKeys, Passwords, Roster, Rosters
from .exposure import leaves_machine
from .keys import Identity, KeyPair, fingerprint, public_key_of
from .peer import Peer
from .settings import ANYBODY, FOR_CURVE, FOR_PLAIN, Security, is_network, network_of

__all__ = ["DEFAULT_CONNECTIONS", "IPC_PERMISSIONS", "Credentials", "Gate", "Verdict", "unreadable"]

DEFAULT_CONNECTIONS = 1000
"""How many connections one IP address may have to a socket that looks at who connects."""

IPC_PERMISSIONS = 0o600
"""Of ipc files, unless set."""

_Options: TypeAlias = list[tuple[str, Any]]

_LISTS = ("authorized_keys", "passwords")  # of those who may connect
_WITHOUT_HANDSHAKE = ("pgm", "epgm", "norm", "udp")  # libzmq has no mechanism for these, and asks nobody who he is

_READERS: Mapping[str, Callable[[str], Any]] = {
    "secret_key": KeyPair.read,
    "server_key": public_key_of,
    "authorized_keys": AuthorizedKeys,
    "passwords": Passwords,
}


class Credentials:
    """What a socket proves who it is with, and whom it lets in.

    Reads the files of the settings. Raises `SecurityError` when these, or the settings, cannot be used: what is missing
    for a socket that binds, or connects, is only found when it does.
    """

    def __init__(self, security: Security) -> None:
        self.security = security
        self.mechanism = _mechanism_of(security)
        curve = self.mechanism == "curve"
        self.key_pair: KeyPair | None = None
        if curve and security.secret_key is not None:
            self.key_pair = _read("secret_key", security.secret_key)
        given = _written(security, "server_key") if curve else []
        self.server_keys: Sequence[str] = [_read("server_key", key) for key in given]

    def __repr__(self) -> str:
        return f"<Credentials {self.mechanism}>"

    @property
    def key(self) -> str:
        """The fingerprint of its own key, '' for one without a key."""
        return "" if self.key_pair is None else fingerprint(self.key_pair.public)

    def at(self, turn: int) -> Credentials:
        """The same with one of its `server_keys`, as their turn comes."""
        if len(self.server_keys) < 2:
            return self
        other = object.__new__(Credentials)
        vars(other).update(vars(self))
        other.server_keys = [self.server_keys[turn % len(self.server_keys)]]
        return other

    def flaw_of(self, uri: str) -> str | None:
        """Why this endpoint must not be used with these; None when it may be."""
        transport = uri.partition("://")[0]
        if self.mechanism != "none" and transport in _WITHOUT_HANDSHAKE:
            return f"{transport} has no handshake: nothing would be encrypted, and nobody asked who he is"
        if self.mechanism != "plain" or self.security.insecure or not leaves_machine(uri):
            return None
        return (
            "with PLAIN the password goes over the network for anybody to read; use CURVE, or say insecure: true if "
            "nobody can listen there"
        )

    @property
    def flaw_of_raw(self) -> str | None:
        """Why a socket that speaks plain TCP (`stream`, or with `router_raw`) must not be used with these, or None."""
        security = self.security
        asked = (security.groups, security.allow, security.deny)
        if self.mechanism == "none" and all(one is None for one in asked):
            return None
        return (
            "it speaks plain TCP, without the handshake of ZeroMQ: nothing would be encrypted, and nobody asked who he "
            "is; leave out security for this socket (mechanism: none, and no allow and deny) if that is meant"
        )

    def connect_options(self) -> _Options:
        """What a socket is set to before it connects. Raises `SecurityError` when something is missing."""
        if self.mechanism == "curve":
            if not self.server_keys:
                raise SecurityError(
                    "a socket that connects with CURVE needs server_key, the public key of the server: without it, "
                    "anybody could take its place",
                    "server_key",
                )
            pair = self.key_pair or KeyPair.generate()
            return [
                ("curve_server", 0),
                ("curve_serverkey", self.server_keys[0]),
                ("curve_publickey", pair.public),
                ("curve_secretkey", pair.secret),
            ]
        if self.mechanism == "plain":
            for name in ("username", "password"):
                if getattr(self.security, name) is None:
                    raise SecurityError(
                        f"a socket that connects with PLAIN needs username and password: no {name}", name
                    )
            return [
                ("plain_server", 0),
                ("plain_username", self.security.username),
                ("plain_password", self.security.password),
            ]
        return []

    def bind_options(self) -> _Options:
        """What a socket is set to before it is bound, besides its domain. Raises `SecurityError`, as above."""
        if self.mechanism == "curve":
            if self.key_pair is None:
                raise SecurityError(
                    "a socket that is bound with CURVE needs secret_key, the file with its key (dploylib keygen)",
                    "secret_key",
                )
            return [("curve_server", 1), ("curve_secretkey", self.key_pair.secret)]
        return [("plain_server", 1)] if self.mechanism == "plain" else []

    def gate(self, rosters: Rosters | None = None) -> Gate | None:
        """Who may come in to a bound socket; None where nobody is looked at. Raises `SecurityError`, as above.

        The lists are among those of `rosters`, if these are given.
        """
        security = self.security
        asks = (security.allow, security.deny, security.groups, security.max_connections_per_address)
        if self.mechanism == "none":
            if security.groups is not None:
                raise SecurityError(
                    "groups are of clients that authenticate themselves, and mechanism is none", "groups"
                )
            return Gate(self, None) if any(asked is not None for asked in asks) else None
        setting = "authorized_keys" if self.mechanism == "curve" else "passwords"
        path = getattr(security, setting)
        if path is None:
            what = (
                "the directory or file with the keys of its clients, or 'any' for whoever has the key of the server"
                if self.mechanism == "curve"
                else "the file with the names and passwords of its clients"
            )
            raise SecurityError(
                f"a socket that is bound with {self.mechanism.upper()} needs {setting}: {what}", setting
            )
        if self.mechanism == "curve" and path == ANYBODY:
            if security.groups is not None:
                raise SecurityError("groups are of authorized keys, and authorized_keys is any", "groups")
            return Gate(self, None)
        opened = partial((rosters or Rosters()).open, AuthorizedKeys if self.mechanism == "curve" else Passwords)
        return Gate(self, _read(setting, path, opened))

    @property
    def ipc_permissions(self) -> int:
        """Those of the files of ipc endpoints."""
        written = self.security.ipc_permissions
        return IPC_PERMISSIONS if written is None else int(written, 8)


class Verdict(NamedTuple):
    """What a gate says of somebody: the `id` by which he is known, if he may come in, and else the `reason` why not."""

    id: str | None
    reason: str = ""
    who: str = ""
    """Whom the log is to name: a fingerprint, or a user name."""


class Gate:
    """Decides who may come in to a bound socket. No I/O happens here, but for reading the lists again."""

    def __init__(self, credentials: Credentials, roster: Roster | None) -> None:
        security = credentials.security
        self.mechanism = credentials.mechanism
        self.roster = roster
        self._groups = None if security.groups is None else frozenset(security.groups)
        self._allowed = None if security.allow is None else [network_of(text) for text in security.allow]
        denied = security.deny or ()
        self._denied = [network_of(text) for text in denied if is_network(text)]
        self._denied_keys = frozenset(text for text in denied if not is_network(text))
        self.max_connections = security.max_connections_per_address or DEFAULT_CONNECTIONS

    @property
    def names_peers(self) -> bool:
        """Whether it knows by name who comes in."""
        return self.roster is not None

    def admit(self, address: str, mechanism: str, credentials: Sequence[bytes]) -> Verdict:
        """Decide about somebody at this address. `mechanism` and `credentials` are those of ZAP (ZeroMQ RFC 27)."""
        reason = self._reason_against(address)
        if reason:
            return Verdict(None, reason)
        if mechanism != ("NULL" if self.mechanism == "none" else self.mechanism.upper()):
            return Verdict(None, f"mechanism {mechanism}")  # libzmq does not let it come to this
        if self.mechanism == "curve":
            return self._admit_key(credentials)
        return self._admit_user(credentials) if self.mechanism == "plain" else Verdict("")

    def _reason_against(self, address: str) -> str:
        if self._allowed is None and not self._denied:
            return ""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:  # of this machine, by ipc
            return ""
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if any(ip in network for network in self._denied):
            return "address denied"
        if self._allowed is not None and not any(ip in network for network in self._allowed):
            return "address not allowed"
        return ""

    def _admit_key(self, credentials: Sequence[bytes]) -> Verdict:
        from zmq.utils import z85

        if len(credentials) != 1 or len(credentials[0]) != 32:
            return Verdict(None, "no key")
        key = z85.encode(credentials[0]).decode()
        who = fingerprint(key)
        if key in self._denied_keys:
            return Verdict(None, "key denied", who)
        if self.roster is None:
            return Verdict(key, who=who)
        return self._in_groups(self.roster.get(key), key, "key not authorized", who)

    def _admit_user(self, credentials: Sequence[bytes]) -> Verdict:
        assert self.roster is not None
        if len(credentials) != 2:
            return Verdict(None, "no user name and password")
        name = credentials[0].decode(errors="replace")
        known = self.roster.get(name)
        right = hmac.compare_digest(credentials[1], b"" if known is None else known.credential.encode())
        who = f"user {name[:64]!r}"
        return self._in_groups(known if right else None, name, "wrong user name or password", who)

    def _in_groups(self, known: Identity | None, id: str, otherwise: str, who: str) -> Verdict:
        if known is None:
            return Verdict(None, otherwise, who)
        if self._groups is not None and not self._groups & known.groups:
            return Verdict(None, f"{known.name} is in none of the groups {', '.join(sorted(self._groups))}", who)
        return Verdict(id, who=who)

    def peer(self, id: str, address: str) -> Peer:
        """Who is behind an id that was let in, as the lists are now."""
        key = _fingerprint(id) if self.mechanism == "curve" and id else ""  # none of inproc
        known = None if self.roster is None else self.roster.get(id)
        if known is None:
            return Peer("", frozenset(), key, address)
        return Peer(known.name, known.groups, key, address)

    def admits(self, id: str) -> bool:
        """Whether somebody with an id that was let in might still come in, as far as the lists say."""
        if self.roster is None:
            return True
        known = self.roster.get(id)
        return known is not None and (self._groups is None or bool(self._groups & known.groups))

    def revoked(self, before: Mapping[str, Identity]) -> dict[str, Identity]:
        """Who may not come in any more, by id, of those who might when this was in the list."""
        assert self.roster is not None
        return {id: known for id, known in before.items() if not self._still(known, self.roster.get(id))}

    def _still(self, before: Identity, now: Identity | None) -> bool:
        if now is None or now.credential != before.credential:
            return False
        return self._groups is None or bool(self._groups & now.groups)


_fingerprint = functools.lru_cache(10_000)(fingerprint)


def unreadable(security: Security, binds: bool) -> Iterator[SecurityError]:
    """What is wrong with each of the files of these settings that a socket which binds, or connects, needs.

    Raises `SecurityError` when it is not clear which these are.
    """
    mechanism = _mechanism_of(security)
    for setting in FOR_CURVE if mechanism == "curve" else FOR_PLAIN if mechanism == "plain" else ():
        if setting not in _READERS or (setting in _LISTS and not binds):
            continue
        for written in _written(security, setting):
            try:
                if setting not in _LISTS or written != ANYBODY:
                    _read(setting, written)
            except SecurityError as error:
                yield error


def _written(security: Security, setting: str) -> Sequence[str]:
    """What a setting says: of several, each."""
    given = getattr(security, setting)
    return [] if given is None else [given] if isinstance(given, str) else given


def _read(setting: str, written: str, read: Callable[[str], Any] | None = None) -> Any:
    """What is read from what is written in a setting, which the error names."""
    try:
        return (read or _READERS[setting])(written)
    except SecurityError as error:
        raise SecurityError(str(error), setting) from error.__cause__


def _mechanism_of(security: Security) -> str:
    said = [name for name in FOR_CURVE if getattr(security, name) is not None]
    plain = [name for name in FOR_PLAIN if getattr(security, name) is not None]
    if security.mechanism is not None:
        return security.mechanism
    if said and plain:
        raise SecurityError(
            f"{said[0]} is for CURVE and {plain[0]} for PLAIN: say which mechanism it is to be", "mechanism"
        )
    return "curve" if said else "plain" if plain else "none"
