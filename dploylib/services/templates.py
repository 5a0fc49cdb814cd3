"""Templates: sets of servers that a service takes over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..servers import Server

__all__ = ["ServiceTemplate"]


class ServiceTemplate:
    """Servers by name, which `Service(templates=[...])` has without `add_server`.

    A server that the service adds under the same name replaces the one of the template; of several templates the last
    one counts.
    """

    servers: ClassVar[Mapping[str, type[Server]]] = {}
