"""Servers that are ready to be used, and to be subclassed: a service adds them, and configures their sockets."""

from .balancer import BalancerServer, BalancerSettings
from .broadcast import BroadcastServer, BroadcastSettings, Subscriptions
from .forwarder import ForwarderServer
from .queue import AdminRequest, QueueServer, QueueSettings
from .worker import Worker

__all__ = [
    "AdminRequest",
    "BalancerServer",
    "BalancerSettings",
    "BroadcastServer",
    "BroadcastSettings",
    "ForwarderServer",
    "QueueServer",
    "QueueSettings",
    "Subscriptions",
    "Worker",
]
