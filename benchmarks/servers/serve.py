"""`dploylib serve` with some workers. This process becomes the arbiter."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.servers import common, processes
from dploylib.control.finding import statuses

CONFIGURATION = 'servers: {bench: {request: {uri: "tcp://127.0.0.1:*"}}}\n'


def serve(arguments):
    """Run the service of this role."""
    directory = Path(processes.started_beside(tell_where))
    configuration = directory / "config.yaml"
    configuration.write_text(CONFIGURATION)
    service = Path(__file__).with_name(f"{arguments.role}.py")
    command = [sys.executable, "-m", "dploylib", "serve", str(service), "-c", str(configuration)]
    options = ["--workers", str(arguments.workers), "--balance", "messages", "--run-dir", str(directory / "run")]
    os.execv(sys.executable, [*command, *options])


def tell_where(directory, _):
    """Say where the service is, as soon as it is ready."""
    while not (ready := [one for one in statuses(str(Path(directory) / "run")) if one["state"] == "ready"]):
        time.sleep(0.01)
    common.announce(ready[0]["endpoints"]["bench.request"])


if __name__ == "__main__":
    common.play({"computing": serve})
