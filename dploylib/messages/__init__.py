"""The messages that the services of dploy exchange, as typed values that are valid once they are made.

For example::

    @bind_in("request", "rep", obj=BuildRequest)
    def enqueue(self, socket, received):
        self.queue.append(received.obj.commit)

The store of environment variables is in `dploylib.messages.store`, which needs SQLAlchemy.
"""

from .base import Message
from .model import (
    MESSAGES,
    AppBuildRequest,
    AppRelease,
    BroadcastMessage,
    BroadcastOutputData,
    BroadcastStatusData,
    BuildRequest,
    EnvVars,
    ZoneDeployOrder,
    ZoneStopDeploy,
    new_broadcast_id,
)

__all__ = [
    "MESSAGES",
    "AppBuildRequest",
    "AppRelease",
    "BroadcastMessage",
    "BroadcastOutputData",
    "BroadcastStatusData",
    "BuildRequest",
    "EnvVars",
    "Message",
    "ZoneDeployOrder",
    "ZoneStopDeploy",
    "new_broadcast_id",
]
