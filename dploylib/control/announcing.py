"""What a service says of itself in its run directory while one process runs it: `dploylib run`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from .. import __version__
from ..services import Service
from ..services.lifecycle import State
from .run_dir import RunDir

__all__ = ["announced"]

_WORDS = {State.NEW: "starting", State.STARTING: "starting", State.RUNNING: "ready"}


@contextlib.contextmanager
def announced(service: Service, name: str, path: str | None = None) -> Iterator[RunDir]:
    """Within it, a service that this process runs is found by this name; its run directory is at `path`, or a new one.

    What it says has the form of what an arbiter says, but it is written only when the state changes. Raises what
    `RunDir.make` does, and `OSError`.
    """
    directory = RunDir.make(name, (os.geteuid(), os.getegid()), path)
    started = time.time()

    def tell(state: State) -> None:
        directory.write_status(
            {
                "name": name if service.settings is None else service.settings.service,
                "mode": "run",
                "pid": os.getpid(),
                "version": __version__,
                "predecessor": None,
                "successor": None,
                "state": _WORDS.get(state, "stopping"),
                "started": started,
                "written": time.time(),
                "generation": 1,
                "reloads": 0,
                "endpoints": _listening(service),
                "workers": [],
            }
        )

    tell(service.state)
    service.on_state(tell)
    try:
        yield directory
    finally:
        service.on_state(lambda state: None)
        directory.remove(directory.leave())


def _listening(service: Service) -> dict[str, str]:
    """Where the bound sockets are, by server and socket."""
    found = {}
    for server, endpoints in service.endpoints.items():
        for socket in service.server_classes[server].description.sockets.values():
            if socket.binds and socket.name in endpoints:
                found[f"{server}.{socket.name}"] = endpoints[socket.name]
    return found
