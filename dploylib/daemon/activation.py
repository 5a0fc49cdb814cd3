"""Sockets that systemd has opened, and hands over (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import Any

from gunicorn import systemd

from .listeners import Listening, address_of

__all__ = ["activated"]


def activated(listening: Iterable[Listening], log: Any) -> tuple[dict[str, int], bool]:
    """Descriptors that were handed over, by the key of the endpoint that each is for, and whether there are any.

    One is for an endpoint by its name (`FileDescriptorName=echo.request`), or by the address at which it listens. One
    that is for none is closed, with a warning.
    """
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    count = systemd.listen_fds()
    wanted = list(listening)
    found: dict[str, int] = {}
    for index in range(count):
        descriptor = systemd.SD_LISTEN_FDS_START + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) else ""
        key = _wanted_by(descriptor, name, [one for one in wanted if one.key not in found])
        if key is None:
            log.warning("systemd has opened a socket (%s) that is for no endpoint of the configuration", name or index)
            os.close(descriptor)
        else:
            found[key] = descriptor
    return found, count > 0


def _wanted_by(descriptor: int, name: str, listening: list[Listening]) -> str | None:
    for one in listening:
        if name == one.owner:
            return one.key
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        family, address = sock.family, sock.getsockname()
    for one in listening:
        try:
            wanted_family, wanted = address_of(one)
        except OSError:
            continue
        if wanted_family == family and wanted == address:
            return one.key
    return None
