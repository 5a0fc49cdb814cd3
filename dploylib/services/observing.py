"""What the section `monitoring` lets servers be watched by."""

from __future__ import annotations

from ..config import ServerSettings
from ..servers import Hook, MessageLog
from ..tracing import spans

__all__ = ["observers"]


def observers(settings: ServerSettings) -> list[Hook]:
    """The hooks of a server that runs here, besides those of its user. There are none where nobody wants to know."""
    hooks: list[Hook] = []
    making = spans()
    if making is not None:
        from ..servers.tracing import Tracing

        hooks.append(Tracing(making))
    if settings.monitoring.access_log:
        hooks.append(MessageLog(settings.monitoring.access_log))
    return hooks
