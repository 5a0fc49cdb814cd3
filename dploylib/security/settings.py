"""What a socket is secured by, as a configuration or a program says it. Files are read by `Credentials`."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Final, TypeAlias, get_args

import msgspec
from msgspec import Meta

from ..errors import SecurityError
from .files import looks_like_key
from .keys import is_key
from .masked import MASK, MaskedText

__all__ = ["ANYBODY", "FOR_CURVE", "FOR_PLAIN", "MECHANISMS", "Security", "ServiceSecurity", "is_network", "network_of"]

MECHANISMS: Final = ("curve", "plain", "none")
"""The security mechanisms of ZeroMQ that there are here: CURVE, PLAIN, and NULL, which is none."""

ANYBODY: Final = "any"
"""Stands for all keys, where those of clients are asked for."""

FOR_CURVE: Final = ("secret_key", "server_key", "authorized_keys")
"""The settings that mean CURVE, unless a mechanism is said."""

FOR_PLAIN: Final = ("username", "password", "passwords")
"""Those that mean PLAIN."""

_LONGEST_OF_PLAIN: Final = 255  # bytes, in ZMTP (ZeroMQ RFC 24)
_MOST_CONNECTIONS: Final = 1_000_000
_OCTAL: Final = "^0?[0-7]{3}$"


def network_of(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address (`10.0.0.1`) or network (`10.0.0.0/8`). Raises `ValueError`.

    A network of IPv4 addresses mapped to IPv6 is one of IPv4, as these addresses are when they are looked at.
    """
    if "%" in text:
        raise ValueError("a network is the same on every interface: leave out what follows the %")
    network = ipaddress.ip_network(text)
    if network.version == 6 and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return ipaddress.IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _mechanism_flaw(word: object) -> str | None:
    return None if word in MECHANISMS or not isinstance(word, str) else "expected curve, plain or none"


def _network_flaw(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    try:
        network_of(text)
    except ValueError as error:
        return f"expected an IP address or network, such as 10.0.0.0/8 ({error})"
    return None


def is_network(text: str) -> bool:
    """Whether this is an address or a network. One of IPv6 may have the form of a key, too; it is none then."""
    return _network_flaw(text) is None


def _denied_flaw(text: object) -> str | None:
    return None if isinstance(text, str) and is_key(text) else _network_flaw(text)


def _plain_flaw(text: object) -> str | None:
    if not isinstance(text, str):
        return None
    size = 0
    with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, which is no text
        size = len(text.encode())
    return None if 0 < size <= _LONGEST_OF_PLAIN else f"expected 1 to {_LONGEST_OF_PLAIN} bytes of text in UTF-8"


def _permissions_flaw(text: object) -> str | None:
    if text is None or (isinstance(text, str) and re.fullmatch(_OCTAL, text)):  # YAML makes a number of 0660
        return None
    return "expected the octal permissions of a file in quotes, such as '0660'"


def _flaw(function: Any, **schema: Any) -> Meta:
    return Meta(extra={"flaw": function}, extra_json_schema=schema)


_Mechanism: TypeAlias = Annotated[str, _flaw(_mechanism_flaw, enum=list(MECHANISMS))]
_Networks: TypeAlias = list[Annotated[str, _flaw(_network_flaw)]]
_Denied: TypeAlias = list[Annotated[str, _flaw(_denied_flaw)]]
_Plain: TypeAlias = Annotated[str, _flaw(_plain_flaw, minLength=1)]
_Permissions: TypeAlias = Annotated[str, _flaw(_permissions_flaw, pattern=_OCTAL)]

_PATHS: Final = ("secret_key", "authorized_keys", "passwords")


class Security(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sockets are secured, for those that bind and those that connect.

    Everything may be left out. In a configuration, what a socket does not say holds as its server has it, and then as
    the whole service has it. The mechanism is CURVE where keys are given, PLAIN where passwords are, and else none.
    Raises `SecurityError` for what a setting cannot be. The password is not shown, and never becomes JSON; a process
    that is given these settings by pickle gets it.
    """

    mechanism: Annotated[
        _Mechanism | None,
        Meta(description="curve, plain or none. Without it, what the other settings are for."),
    ] = None
    secret_key: Annotated[
        str | None,
        Meta(description="The file with the socket's own secret key, as dploylib keygen makes it (NAME.key_secret)."),
    ] = None
    server_key: Annotated[
        str | Annotated[list[str], Meta(min_length=1)] | None,
        Meta(
            description="Of a connecting socket: the public key of the server, or the file that it is in (NAME.key). "
            "Of several, one must be the server's."
        ),
    ] = None
    authorized_keys: Annotated[
        str | None,
        Meta(
            description="Of a bound socket: the directory (of NAME.key files) or file (of lines NAME KEY GROUP,GROUP) "
            "with the keys of the clients that may connect; or any, for whoever has the key of the server."
        ),
    ] = None
    username: Annotated[_Plain | None, Meta(description="Of a connecting socket with PLAIN: its user name.")] = None
    password: Annotated[_Plain | None, Meta(description="Of a connecting socket with PLAIN: its password.")] = None
    passwords: Annotated[
        str | None,
        Meta(description="Of a bound socket with PLAIN: the file with lines NAME PASSWORD GROUP,GROUP."),
    ] = None
    groups: Annotated[
        list[str] | None,
        Meta(description="Of a bound socket: who is in none of these groups may not connect."),
    ] = None
    allow: Annotated[
        _Networks | None,
        Meta(description="Of a bound socket: the IP addresses and networks that may connect. Without it, all may."),
    ] = None
    deny: Annotated[
        _Denied | None,
        Meta(description="Of a bound socket: the IP addresses, networks and public keys that may not connect."),
    ] = None
    insecure: Annotated[
        bool | None,
        Meta(description="Whether what is sent to other machines may be unencrypted, for anybody to read and change."),
    ] = None
    max_connections_per_address: Annotated[
        Annotated[int, Meta(ge=1, le=_MOST_CONNECTIONS)] | None,
        Meta(description="Of a bound socket: how many connections one IP address may have. 1000, unless set."),
    ] = None
    ipc_permissions: Annotated[
        _Permissions | None,
        Meta(description="Of a bound socket: the permissions of its ipc files, in octal. '0600', unless set."),
    ] = None

    def __post_init__(self) -> None:
        for name in _PATHS:
            self._set(name, os.PathLike, os.fspath)
        self._set("server_key", (os.PathLike, list, tuple), _written_keys)
        for name, kind, checks in _rules_of(type(self)):
            value = getattr(self, name)
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError as error:
                raise SecurityError(f"{name}: {str(error)[:1].lower()}{str(error)[1:]}", name) from None
            for one in value if isinstance(value, list | tuple) else [value]:
                if flaw := next(filter(None, (check(one) for check in checks)), None):
                    raise SecurityError(f"{name}: {flaw}", name)
        self._set("password", str, MaskedText)

    def _set(self, name: str, kind: Any, change: Callable[[Any], Any]) -> None:
        if isinstance(value := getattr(self, name), kind):
            msgspec.structs.force_setattr(self, name, change(value))

    def over(self, outer: Security) -> Security:
        """These settings, and where they say nothing those of `outer`.

        Who gives keys or passwords here wants them used: a `mechanism: none` of `outer` is not for them.
        """
        said = {name: value for name in Security.__struct_fields__ if (value := getattr(self, name)) is not None}
        inherited = {name: getattr(outer, name) for name in Security.__struct_fields__}
        if outer.mechanism == "none" and any(name in said for name in FOR_CURVE + FOR_PLAIN):
            del inherited["mechanism"]
        return Security(**inherited | said)

    def __repr__(self) -> str:
        shown = (
            # Somebody may have written a key where a file is to be named.
            f"{name}={MASK if name in _PATHS and looks_like_key(value) else repr(value)}"
            for name in self.__struct_fields__
            if (value := getattr(self, name)) not in (None, {})
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:  # else rich would look into the fields
        yield repr(self)


def _written_keys(keys: Any) -> Any:
    if isinstance(keys, os.PathLike):
        return os.fspath(keys)
    return [os.fspath(key) if isinstance(key, os.PathLike) else key for key in keys]


@cache
def _rules_of(cls: type[Security]) -> list[tuple[str, Any, list[Callable[[object], str | None]]]]:
    """Of each field its name, its type, and what else is checked. To find that out takes a millisecond."""
    return [(field.name, field.type, list(_checks_in(field.type))) for field in msgspec.structs.fields(cls)]


def _checks_in(kind: Any) -> Iterator[Callable[[object], str | None]]:
    """The functions that stand anywhere in a type; each looks at nothing but texts."""
    if isinstance(kind, Meta) and kind.extra:
        yield kind.extra["flaw"]
    for part in get_args(kind):
        yield from _checks_in(part)


class ServiceSecurity(Security, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the sockets of a service are secured."""

    servers: Annotated[
        dict[str, Security],
        Meta(description="The same for the sockets of one server, by its name. What is not said is as for all."),
    ] = {}
