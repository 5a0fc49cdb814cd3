"""What an arbiter has of its front: a connection to it, which says that the front is needed for as long as it is open.

Over it go lines of JSON, one for a request and one for its reply, and descriptors of sockets that listen.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from ..errors import ServiceStateError
from .lane import Lane, to_json

__all__ = ["FrontOwner"]

_CHUNK = 65536
_MOST_DESCRIPTORS = 250  # in one message; the kernel passes 253
_TIMEOUT = 30.0


class FrontOwner:
    """A connection to the front at `control_path`. It needs neither gevent nor zmq, and blocks for `timeout` seconds.

    Raises `OSError` where there is no front, and whenever it has gone.
    """

    def __init__(self, control_path: str, timeout: float = _TIMEOUT) -> None:
        self.control_path = control_path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._text = b""
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(control_path)
            # Of who listens there (unix(7)): pid, uid and gid.
            self.pid: int = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except BaseException:
            self._socket.close()
            raise

    def configure(
        self, lanes: Iterable[Lane], descriptors: Mapping[str, int], graceful_timeout: float = 30.0
    ) -> list[str]:
        """Say which lanes there are to be, and return what did not work, a text for each.

        One that is new is opened, and one that is missing is closed when what it has is answered, or after
        `graceful_timeout` seconds. Of one that is there, the endpoints, `idempotent`, `rejects` and `concurrency` are
        taken over at once; one that is other in something else is such a text, and stays as it was. `descriptors` are
        of sockets that listen, by uri; they stay the caller's. An endpoint without one is bound by the front.
        """
        wanted = list(lanes)
        used = {uri for lane in wanted for uri in lane.uris}
        passed = [(uri, descriptor) for uri, descriptor in descriptors.items() if uri in used]
        request = {
            "do": "configure",
            "lanes": [to_json(lane) for lane in wanted],
            "descriptors": [uri for uri, _ in passed],
            "graceful_timeout": graceful_timeout,
        }
        reply = self._ask(request, [descriptor for _, descriptor in passed])
        return list(reply["errors"])

    def status(self) -> dict[str, Any]:
        """What the front has done, by lane, and which workers it knows."""
        return self._ask({"do": "status"})

    def reopen_logs(self) -> None:
        """Let the front open its log files again."""
        self._ask({"do": "reopen_logs"})

    def release(self) -> bool:
        """Say that the front is not needed here any more. Returns whether it goes on, for others."""
        try:
            return bool(self._ask({"do": "release"})["goes_on"])
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection, which says the same without waiting for an answer."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor of the connection: it is readable when the front has gone."""
        return self._socket.fileno()

    def __enter__(self) -> FrontOwner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], descriptors: list[int] | None = None) -> dict[str, Any]:
        data = json.dumps(request).encode() + b"\n"
        rest = list(descriptors or ())
        while rest:  # each with a byte at least: they come with what was sent with them, or before
            now, rest = rest[:_MOST_DESCRIPTORS], rest[_MOST_DESCRIPTORS:]
            socket.send_fds(self._socket, [data[:1]], now)
            data = data[1:]
        self._socket.sendall(data)
        while b"\n" not in self._text:
            more = self._socket.recv(_CHUNK)
            if not more:
                raise ConnectionResetError(f"the front at {self.control_path} has gone")
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        reply: Any = json.loads(line)
        if not isinstance(reply, dict):
            raise ServiceStateError(f"the front at {self.control_path} says {reply!r}")
        return reply
