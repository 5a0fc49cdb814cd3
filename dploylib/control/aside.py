"""A server beside those of a service, which serves who looks after it: in a thread with a hub of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..servers import Server
from ..services import Service, ThreadedServerCoordinator

__all__ = ["Aside"]

_STOPPING_TIME = 1.0  # seconds that it has to answer who has asked already


class Aside(Service):
    """Runs one server, at these endpoints by socket. `attributes` are what its class has besides.

    To be used in `with`. It answers while the service is busy, or stops, or blocks its hub.
    """

    def __init__(self, name: str, server_cls: type[Server], endpoints: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(coordinator=ThreadedServerCoordinator())
        self.graceful_timeout = _STOPPING_TIME
        self.default_name = ""  # what it logs is of the service that it looks after
        self.add_server(name, type(server_cls.__name__, (server_cls,), attributes))
        self._configuration = {
            "servers": {name: {socket: {"uri": uri} for socket, uri in endpoints.items()}},
            "monitoring": {"statistics": False},
        }

    def __enter__(self) -> Aside:
        self.start(config_dict=self._configuration)
        return self

    def _tell_endpoints(self) -> None:
        """Nobody who reads the log of a service wants to know."""
