"""The front: the process that has the clients' connections while workers come and go.

It is run in a process of its own, for as long as it has *owners*: arbiters that are connected to its control socket.
What they say there is in `front_owner`. One front may have two of them, while one arbiter takes over from another.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

__all__ = ["Front"]

_FOR_OWNERS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGTTIN", "SIGTTOU")


class Front:
    """What an arbiter runs in a process that it has forked: importing and making it needs neither gevent nor zmq.

    `control_path` is of the unix socket for its owners, in a directory that is for us alone. It waits `patience`
    seconds for the first one. `reopen_logs` opens the log files again, when an owner says so. `name` is the service of
    which its control server tells; without one, there is none.
    """

    def __init__(
        self,
        control_path: str,
        patience: float = 10.0,
        reopen_logs: Callable[[], None] = lambda: None,
        name: str = "",
    ) -> None:
        self.control_path = control_path
        self.patience = patience
        self.reopen_logs = reopen_logs
        self.name = name

    def run(self) -> None:
        """Serve until there is no owner any more. Raises `AddressInUse` when another front is at this path.

        Signals that are for a whole group of processes are ignored from now on.
        """
        for name in _FOR_OWNERS:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        from .front_control import FrontControl

        FrontControl(self.control_path, self.patience, self.reopen_logs, self.name).run()
