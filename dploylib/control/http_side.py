"""The HTTP side of a service that runs in this process: in a thread of its own, as its configuration says."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import ClassVar

from ..config import Settings
from ..config.monitoring import address_of
from ..servers import Server
from ..services import Service
from .aside import Aside
from .source import Source

__all__ = ["http_side"]


class _HTTPSide(Server):
    """No sockets of ZeroMQ, but that one."""

    source: ClassVar[Source]
    listener: ClassVar[socket.socket]

    def setup(self) -> None:
        from .http import HTTPServer

        self._http = HTTPServer(self.source, self.listener)
        self._http.start()

    def teardown(self) -> None:
        self._http.stop()


@contextlib.contextmanager
def http_side(service: Service, source: Source) -> Iterator[None]:
    """Within it, each start of a service opens its HTTP side, if its configuration has one.

    It tells what `source` tells. Where it cannot listen, the start raises `AddressInUse` or `EndpointError`.
    """
    with contextlib.ExitStack() as stack:

        def open(settings: Settings) -> None:
            address = address_of(settings.configuration.monitoring)
            stack.close()  # that of a start before
            if address is not None:
                from .http import listen  # which takes its time

                listener = listen(address)
                stack.enter_context(Aside("http", _HTTPSide, {}, source=source, listener=listener))

        service.on_settings(open)
        try:
            yield
        finally:
            service.on_settings(lambda settings: None)
