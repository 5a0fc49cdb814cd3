"""Connections that are watched: whether there is one, why there is none, and connecting again where libzmq gives up.

Between the sockets of `dploylib.transport`, which connect and say no more, and clients and servers, who want to know.
"""

from .backoff import backoff
from .diagnosis import Diagnosis
from .handshakes import Handshakes, known_of, refusal_by_all
from .several import keep_connected
from .watching import WatchedEndpoint

__all__ = [
    "Diagnosis",
    "Handshakes",
    "WatchedEndpoint",
    "backoff",
    "keep_connected",
    "known_of",
    "refusal_by_all",
]
