"""Servers: a class declares its sockets and their handlers, and dploylib runs it.

For example::

    from dploylib import servers

    class EchoServer(servers.Server):
        @servers.bind_in("request", "rep")
        def echo(self, socket, received):
            return received.text
"""

from .declare import (
    Handler,
    ServerDescription,
    SocketDescription,
    allow,
    bind,
    bind_in,
    connect,
    connect_in,
    every,
)
from .dispatch import Counts, ReplySocket
from .hooks import Hook, MessageLog
from .offload import offload
from .server import GRACEFUL_TIMEOUT, DployServer, Server
from .sockets import Sockets

__all__ = [
    "GRACEFUL_TIMEOUT",
    "Counts",
    "DployServer",
    "Handler",
    "Hook",
    "MessageLog",
    "ReplySocket",
    "Server",
    "ServerDescription",
    "SocketDescription",
    "Sockets",
    "allow",
    "bind",
    "bind_in",
    "connect",
    "connect_in",
    "every",
    "offload",
]
