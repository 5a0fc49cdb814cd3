"""Servers that are ready to be used: what many services need, and nobody should have to write again.

For example::

    service.add_server("news", BroadcastServer)
"""

from .broadcast import BroadcastServer, BroadcastSettings, Subscriptions
from .forwarder import ForwarderServer

__all__ = ["BroadcastServer", "BroadcastSettings", "ForwarderServer", "Subscriptions"]
