"""What all clients share: a context to make sockets in, endpoints, and an end."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

from ..security import Credentials, Security
from ..transport import Context
from ..transport.options import PEER_OPTIONS, Options, option_pairs

__all__ = ["Client", "checked_timeout", "endpoints_of", "options_of"]

_Client = TypeVar("_Client", bound="Client")

_OPTIONS = {
    "reconnect_ivl": 100,  # milliseconds, to which libzmq adds as much again at random
    "reconnect_ivl_max": 1000,
    **PEER_OPTIONS,
}


class Client:
    """Makes its sockets in the context that is given, or in one of its own, which it closes. It is used by `with`.

    `security` is how it proves who it is, and knows its server; None for how the context is secured. Its files are read
    now. Raises `SecurityError`.
    """

    def __init__(self, context: Context | None, security: Security | None = None) -> None:
        if context is not None and not isinstance(context, Context):
            raise TypeError(f"a context is a dploylib.transport.Context, not {context!r}")
        if security is not None and not isinstance(security, Security):  # not shown: it may be a password
            raise TypeError(f"security is a dploylib.security.Security, not {type(security).__name__}")
        given = None if security is None else Credentials(security)
        self._owns_context = context is None
        self._context = Context.new() if context is None else context
        self._credentials = self._context.credentials if given is None else given

    def close(self) -> None:
        """Close the client."""
        raise NotImplementedError(f"{type(self).__name__} must say in close() what there is to close")

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _close_context(self, linger: float | None = 0.0) -> None:
        if self._owns_context:
            self._context.close(linger)


def checked_timeout(seconds: float) -> float:
    """These seconds, if they are above 0; else `ValueError`. `math.inf` is for ever."""
    if not seconds > 0:
        raise ValueError(f"a timeout is a number of seconds above 0, not {seconds!r}; math.inf waits for ever")
    return seconds


def endpoints_of(uri: str | Iterable[str]) -> list[str]:
    """The endpoints of a client that takes one or several, each once. Raises `ValueError` when there is none."""
    uris = [uri] if isinstance(uri, str) else list(dict.fromkeys(uri))
    if not uris:
        raise ValueError("a client needs at least one endpoint")
    return uris


def options_of(defaults: Options, given: Options | None) -> list[tuple[str, object]]:
    """The options of a socket that is watched: those of all clients, of this kind, and what users say."""
    return [*_OPTIONS.items(), *option_pairs(defaults), *option_pairs(given)]
