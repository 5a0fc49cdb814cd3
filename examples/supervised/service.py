"""Servers in processes of their own, of which one crashes now and then, and is started again.

    dploylib run examples/supervised/service.py -c examples/supervised/config.yaml
    python examples/supervised/client.py tcp://127.0.0.1:14500 tcp://127.0.0.1:14501

The section `supervision` of the configuration says which servers are started again. They are found where they were
before, and the others do not notice. Ctrl-C stops them all; the hook then tells what was handled.
"""

import logging
import os
import signal
from collections import Counter

from dploylib import servers
from dploylib.services import ProcessServerCoordinator, Service

log = logging.getLogger(__name__)


class CounterServer(servers.Server):
    """Counts in memory: what it has counted would be lost with its process."""

    def setup(self):
        self.count = 0

    @servers.bind_in("request", "rep")
    def next(self, socket, received):
        self.count += 1
        return self.count


class CarelessServer(servers.Server):
    """Is brought down by every fifth request, as by a bug in a library in C. Nobody can be told any more."""

    def setup(self):
        self.count = 0

    @servers.bind_in("request", "rep")
    def work(self, socket, received):
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"number": received.json, "process": os.getpid()}


class Statistics(servers.Hook):
    """Each process has a copy of its own, which hears of its server; the one of the service hears of restarts."""

    def __init__(self):
        self.handled = 0
        self.restarts = Counter()

    def message_handled(self, server, socket, received, seconds):
        self.handled += 1

    def server_stopped(self, server):
        log.info("%s has handled %d requests since it was started", server.name, self.handled)

    def server_restarting(self, name, error, seconds):
        self.restarts[name] += 1
        log.info("restart %d of %s, since: %s", self.restarts[name], name, error)


service = Service(coordinator=ProcessServerCoordinator(), hooks=[Statistics()])
service.add_server("counter", CounterServer)
service.add_server("careless", CarelessServer)
