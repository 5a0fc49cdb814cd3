"""A front, with workers behind it that echo. This process is the front, so that what is measured is what it costs."""

from __future__ import annotations

import socket
import time

from benchmarks.servers import common, processes


def echo(arguments):
    """Pass on what comes to workers, which send it back, in processes of their own."""
    from dploylib.daemon.front import Front

    directory = processes.started_beside(own, arguments)
    Front(f"{directory}/control").run()


def own(directory, workers, arguments):
    """Start the workers, and configure the front."""
    from dploylib.daemon.front_owner import FrontOwner
    from dploylib.daemon.lane import Lane

    listener = socket.create_server(("127.0.0.1", 0))
    uri = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    options = (("sndhwm", 0), ("rcvhwm", arguments.rcvhwm))
    backend = f"ipc://{directory}/backend"
    workers.extend(processes.forked(work, arguments, uri, backend) for _ in range(arguments.workers))
    owner = connected(f"{directory}/control", FrontOwner)
    lane = Lane("bench", "request", arguments.role, (uri,), backend, options, arguments.concurrency)
    flaws = owner.configure([lane], {uri: listener.fileno()})
    if flaws:
        raise SystemExit("\n".join(flaws))
    while len(owner.status()["lanes"]["bench.request"]["workers"]) < len(workers):
        time.sleep(0.01)
    common.announce(uri)
    return owner  # whose connection keeps the front


def connected(path, owner_class):
    """Connect to the front, as soon as it is there."""
    while True:
        try:
            return owner_class(path)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)


def work(arguments, uri, backend):
    """Be a worker."""
    from dploylib import Server, Service, bind_in
    from dploylib.config import Place, Placement

    class EchoServer(Server):
        @bind_in("request", arguments.role)
        def answer(self, socket, received):
            return received.text

    service = Service()
    service.add_server("bench", EchoServer)
    service.placement = Placement(None, {("bench", "request"): Place(front=backend)})
    service.run(config_dict={"servers": {"bench": {"request": {"uri": uri, "concurrency": arguments.concurrency}}}})


if __name__ == "__main__":
    common.play({"rep": echo, "router": echo})
