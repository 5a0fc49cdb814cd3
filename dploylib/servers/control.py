"""The control socket: how a coordinator tells a server to stop, wherever that server runs.

The coordinator binds an XPUB. A server connects a SUB and subscribes to its own topic once it is ready, so that the
subscription, which an XPUB gets to see, doubles as its readiness.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..transport import Context, ReceiveLoop

__all__ = ["ControlLink", "Stop", "control_topic"]


class Stop(msgspec.Struct, frozen=True):
    """The command to stop: running handlers may go on for `graceful_timeout` seconds."""

    graceful_timeout: float


class ControlLink:
    """The server's end of the control socket. Making one says that the server is ready."""

    def __init__(self, name: str, control_uri: str, context: Context) -> None:
        self._socket = context.socket("sub")
        self._socket.subscribe(control_topic(name))
        self._socket.connect(control_uri)

    def listen(self, obey: Callable[[Stop], None]) -> None:
        """Call `obey` with each command, until the calling greenlet is killed or the socket closed."""
        loop = ReceiveLoop()
        loop.register(self._socket, lambda _: obey(self.receive()))
        loop.run()

    def receive(self) -> Stop:
        """Wait for the next command."""
        stop: Stop = self._socket.receive_obj(Stop)
        return stop

    def close(self) -> None:
        """Close the socket: the coordinator gets to see that the subscription is gone."""
        self._socket.close(linger=0)


def control_topic(name: str) -> str:
    """The id of the envelopes for the server of this name. The slash ends it: a subscription matches prefixes."""
    return f"{name}/"
