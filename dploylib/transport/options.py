"""Socket types and socket options by their lowercase names, as in the ZeroMQ manual pages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from ..errors import UnknownOption, UnknownSocketType

__all__ = [
    "PEER_OPTIONS",
    "SOCKET_TYPES",
    "Options",
    "option_constant",
    "option_pairs",
    "option_value",
    "shown",
    "socket_type_constant",
    "socket_type_name",
]

Options = Mapping[str, Any] | Iterable[tuple[str, Any]]
"""Socket options by lowercase name: a mapping, or a list of pairs where one is set more than once (`subscribe`)."""

SOCKET_TYPES: dict[str, zmq.SocketType] = {
    kind.name.lower(): kind
    for kind in (
        *(zmq.REQ, zmq.REP, zmq.DEALER, zmq.ROUTER),
        *(zmq.PUB, zmq.SUB, zmq.XPUB, zmq.XSUB),
        *(zmq.PUSH, zmq.PULL, zmq.PAIR, zmq.STREAM),
    )
}
"""The stable socket types of libzmq by lowercase name; the draft ones are not in a stock pyzmq."""

PEER_OPTIONS: dict[str, int] = {
    # Milliseconds that a peer has to say in ZMTP who it is; who connects and says nothing holds a file descriptor.
    "handshake_ivl": 10_000,
    # The kernel asks whether the machine of a silent peer is still there: for the first time after 60 s, then every
    # 10 s. After 6 questions without an answer the peer is gone. Linux would take more than two hours.
    "tcp_keepalive": 1,
    "tcp_keepalive_idle": 60,
    "tcp_keepalive_intvl": 10,
    "tcp_keepalive_cnt": 6,
}
"""What the sockets of servers and clients are set to against peers that say nothing."""

_SECRET_OPTIONS = ("curve_secretkey", "plain_password")
_BYTES_OPTIONS = frozenset(option for option in zmq.SocketOption if option._opt_type.name == "bytes")


def socket_type_constant(name: str) -> zmq.SocketType:
    """The constant of a socket type. Raises `UnknownSocketType`."""
    try:
        return SOCKET_TYPES[name]
    except (KeyError, TypeError):
        raise UnknownSocketType(
            f"no socket type {name!r}{_nearest(name, SOCKET_TYPES)}; there are {', '.join(SOCKET_TYPES)}"
        ) from None


def socket_type_name(constant: Any) -> str:
    """The lowercase name of a socket type."""
    return zmq.SocketType(constant).name.lower()


def option_constant(name: str) -> zmq.SocketOption:
    """The constant of a socket option. Raises `UnknownOption`."""
    known = zmq.SocketOption.__members__
    try:
        return known[name.upper()]
    except (KeyError, AttributeError):
        lowercase = [option.lower() for option in known]
        raise UnknownOption(
            f"no socket option {name!r}{_nearest(name, lowercase)}; see the manual page of zmq_setsockopt"
        ) from None


def option_value(name: str, value: Any) -> int | bytes:
    """`value` as pyzmq wants it for this option: bytes (str is encoded as UTF-8) or int (bool counts as 0 and 1).

    Raises `UnknownOption` when it is of another type.
    """
    wants_bytes = option_constant(name) in _BYTES_OPTIONS
    if wants_bytes and isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes if wants_bytes else int):
        return int(value) if isinstance(value, bool) else value
    expected = "a str or bytes" if wants_bytes else "an int"
    raise UnknownOption(f"socket option {name!r} takes {expected}, not {type(value).__name__}: {shown(name, value)}")


def shown(name: str, value: Any) -> str:
    """The value of an option in an error: not that of a secret."""
    return "***" if name.lower() in _SECRET_OPTIONS else repr(value)


def option_pairs(options: Options | None) -> list[tuple[str, Any]]:
    """Either form of options as a list of pairs. Raises `UnknownOption` when it is neither form."""
    if options is None:
        return []
    if isinstance(options, Mapping):
        return list(options.items())
    try:
        pairs: list[Any] = list(options)
    except TypeError:
        what = type(options).__name__
        raise UnknownOption(f"options are a mapping or a list of (name, value) pairs, not of type {what}") from None
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            first = pair[0] if isinstance(pair, list | tuple) and pair else pair  # behind which may be a secret
            raise UnknownOption(
                f"options are a mapping or a list of (name, value) pairs, but one of them is none: {str(first)[:40]!r}"
            )
    return [(name, value) for name, value in pairs]


def _nearest(name: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""
