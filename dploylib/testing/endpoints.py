"""Endpoints for a test in place of those of a configuration: free ones, which lead nowhere outside.

No port is picked before it is bound. A socket that is bound gets a wildcard; who connects to it needs to know the
endpoint before that, and gets an ipc path that nobody else has.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["ANYWHERE", "Rewriting", "directory_for_endpoints"]

ANYWHERE = "tcp://127.0.0.1:*"

_LONGEST = 90  # bytes of the directory: a path of ipc has at most 107, and on some systems 103
_OF_THIS_HOST = ("*", "0.0.0.0", "[::]", "localhost", "[::1]")


class Rewriting:
    """What becomes of the endpoints of a service.

    `bound` and `connected` are the endpoints of its sockets. Those that are bound become wildcards; where a socket of
    the service connects to it, both get the same new ipc path. What nobody in the service binds becomes an ipc path,
    too, at which a test can be bound. inproc endpoints stay, and so does what leads to one of `kept`, which are bound
    as they are.
    """

    def __init__(self, bound: Sequence[str], connected: Iterable[str], kept: Sequence[str], directory: str) -> None:
        self._bound: dict[str, str] = {}
        self._connected: dict[str, str] = {}
        for number, uri in enumerate(connected):
            path = f"ipc://{directory}/{number}"
            if any(_leads_to(uri, one) for one in kept):
                self._connected[uri] = uri
                continue
            there = next((one for one in bound if _leads_to(uri, one)), None)
            if there is not None:
                path = self._bound.setdefault(there, path)
            self._connected.setdefault(uri, path)

    def of_bound(self, uri: str) -> str:
        """The endpoint in place of one that is bound."""
        return uri if _stays(uri) else self._bound.get(uri, ANYWHERE)

    def of_connected(self, uri: str) -> str:
        """The endpoint in place of one that is connected to."""
        return uri if _stays(uri) else self._connected[uri]


@contextlib.contextmanager
def directory_for_endpoints() -> Iterator[str]:
    """A directory for ipc endpoints, with a path that is short enough. It is removed with all that is in it."""
    directory = tempfile.mkdtemp(prefix="dl-")
    if len(os.fsencode(directory)) > _LONGEST:
        os.rmdir(directory)
        directory = tempfile.mkdtemp(prefix="dl-", dir="/tmp")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _stays(uri: str) -> bool:
    return uri.startswith("inproc://")


def _leads_to(connected: str, bound: str) -> bool:
    """Whether who connects to the one finds what is bound to the other, as far as the texts tell."""
    if connected == bound:
        return True
    transport, _, address = connected.partition("://")
    host, _, port = address.rpartition(";")[2].rpartition(":")  # SOURCE;HOST:PORT
    bound_host, _, bound_port = bound.partition("://")[2].rpartition(":")
    if transport != "tcp" or not bound.startswith("tcp://") or port != bound_port:
        return False
    return host == bound_host or (_is_of_this_host(host) and _is_of_this_host(bound_host))


def _is_of_this_host(host: str) -> bool:
    return host in _OF_THIS_HOST or host.startswith("127.")
