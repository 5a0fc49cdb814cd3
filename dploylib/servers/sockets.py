"""Where the sockets of a server are found."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import TransportError
from ..transport import Socket

__all__ = ["Sockets"]


class Sockets:
    """The sockets of a server: `server.sockets.publish` or `server.sockets['publish']`.

    Each is known by the name that the configuration has for it, and by the attribute that declares it.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Socket] = {}
        self._aliases: dict[str, str] = {}

    def add(self, name: str, socket: Socket, alias: str | None = None) -> None:
        """Add a socket. Raises `ValueError` when there is one of that name."""
        if name in self._by_name:
            raise ValueError(f"there is a socket {name!r} already")
        self._by_name[name] = socket
        self._aliases[alias or name] = name

    def __getitem__(self, name: str) -> Socket:
        try:
            return self._by_name[name if name in self._by_name else self._aliases[name]]
        except KeyError:
            raise KeyError(self._unknown(name)) from None

    def __getattr__(self, name: str) -> Socket:
        if name.startswith("__"):  # copy and pickle look for these before there are any sockets
            raise AttributeError(name)
        # An attribute of the class wins over a configured name: it is what the code around it was written with.
        try:
            return self._by_name[self._aliases.get(name, name)]
        except KeyError:
            raise AttributeError(self._unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name or name in self._aliases

    def __iter__(self) -> Iterator[str]:
        """The configured names."""
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def items(self) -> list[tuple[str, Socket]]:
        """Configured names and sockets."""
        return list(self._by_name.items())

    def close(self, linger: float) -> None:
        """Close them all; what is queued is still sent for `linger` seconds, or for less if the option says so."""
        for socket in self._by_name.values():
            try:
                option = socket.get_option("linger")
            except TransportError:  # somebody has closed it, or it is one in memory
                option = -1
            socket.close(linger if option < 0 else min(linger, option / 1000))  # in milliseconds; -1 is for ever

    def _unknown(self, name: str) -> str:
        there = ", ".join(self._by_name) or "none: it has not started, or declares none"
        return f"this server has no socket {name!r}; there are {there}"
