"""A process of a service that tells made-up figures, and writes down what it was asked: `control_target.py DIR ROLE`.

The one of the role `run` is found by the name parrot, with the run directory DIR. Each time it is asked for statistics,
a second has passed by its own account, and 100 more messages.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from dploylib import Server, Service, bind_in
from dploylib.control import Health
from dploylib.control.announcing import announced
from dploylib.statistics import Histogram, LastError, ProcessStatistics, ServerStatistics, SocketStatistics

DIRECTORY, ROLE = sys.argv[1:]
BEGAN = 1_000_000.0


class Control(Server):
    seconds = 0
    level = "info"

    @bind_in("control", "rep")
    def control(self, socket: Any, received: Any) -> Any:
        with (Path(DIRECTORY) / "asked").open("a") as file:
            file.write(f"{received.id} {received.text}\n")
        return getattr(self, f"tell_{received.id.lower()}")(received.json if received.data else None)

    def tell_health(self, argument: Any) -> Health:
        reason = Path(DIRECTORY) / "unready"
        why = [reason.read_text()] if reason.exists() else []
        return Health(alive=True, ready=not why, state="running", why=why)

    def tell_stats(self, argument: Any) -> ProcessStatistics:
        self.seconds += 1
        times = Histogram()
        for seconds, count in ((0.001, 90), (0.05, 10)):
            for _ in range(count * self.seconds):
                times.record(seconds)
        socket = SocketStatistics(
            type="rep",
            received=100 * self.seconds,
            handled=100 * self.seconds - 2,
            failed=5 * self.seconds,
            bytes_received=2048 * self.seconds,
            handler_time=times,
            last_error=LastError(time=BEGAN, type="ValueError", message="no\nseed"),
        )
        return ProcessStatistics(
            service="parrot",
            role=ROLE,
            pid=os.getpid(),
            instance=str(os.getpid()),
            version="1",
            state="running",
            started=BEGAN,
            taken=BEGAN + self.seconds,
            cpu_seconds=self.seconds / 4,
            resident=30 * 2**20,
            servers={"echo": ServerStatistics(type="Echo", sockets={"request": socket})},
        )

    def tell_stacks(self, argument: Any) -> dict[str, str]:
        return {"text": f"the stack of the {ROLE}\n"}

    def tell_loglevel(self, argument: Any) -> dict[str, str]:
        before = self.level
        self.level = (argument or {}).get("level", before)
        return {"level": self.level, "before": before}

    def tell_stop(self, argument: Any) -> dict[str, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}


service = Service()
service.name = "parrot"
service.add_server("control", Control)
found = announced(service, "parrot", DIRECTORY) if ROLE == "run" else contextlib.nullcontext()
with found:
    service.run(config_dict={"servers": {"control": {"control": {"uri": f"ipc://{DIRECTORY}/control.{os.getpid()}"}}}})
