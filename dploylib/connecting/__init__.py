"""Connections that are watched: whether there is one, why there is none, and connecting again where libzmq gives up.

Between the sockets of `dploylib.transport`, which connect and say no more, and clients and servers, who want to know.
"""

from .backoff import backoff
from .diagnosis import Diagnosis, mechanism_at
from .handshakes import Handshakes, Refusal, known_of, refusal_by_all
from .hello import has_key
from .several import keep_connected
from .watching import WatchedEndpoint

__all__ = [
    "Diagnosis",
    "Handshakes",
    "Refusal",
    "WatchedEndpoint",
    "backoff",
    "has_key",
    "keep_connected",
    "known_of",
    "mechanism_at",
    "refusal_by_all",
]
