"""Envelopes and the sockets that carry them: a thin wrapper around ZeroMQ, for greenlets."""

from .codecs import (
    BYTES_MIMETYPE,
    JSON_MIMETYPE,
    MSGPACK_MIMETYPE,
    PROBLEM_MIMETYPE,
    TEXT_MIMETYPE,
)
from .context import DEFAULT_LINGER, Context
from .envelope import MAX_FRAMES, Envelope
from .metadata import Metadata
from .monitor import Link, SocketEvent, SocketMonitor
from .options import SOCKET_TYPES
from .poll_loop import PollLoop
from .problems import Problem
from .receive_loop import Loop, ReceiveLoop, SocketHandler
from .received import ReceivedData
from .socket import Sender, Socket

__all__ = [
    "BYTES_MIMETYPE",
    "DEFAULT_LINGER",
    "JSON_MIMETYPE",
    "MAX_FRAMES",
    "MSGPACK_MIMETYPE",
    "PROBLEM_MIMETYPE",
    "SOCKET_TYPES",
    "TEXT_MIMETYPE",
    "Context",
    "Envelope",
    "Link",
    "Loop",
    "Metadata",
    "PollLoop",
    "Problem",
    "ReceiveLoop",
    "ReceivedData",
    "Sender",
    "Socket",
    "SocketEvent",
    "SocketHandler",
    "SocketMonitor",
]
