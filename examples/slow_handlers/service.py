"""Handlers that wait, many of them at once.

    dploylib run examples/slow_handlers/service.py -c examples/slow_handlers/config.yaml
    python examples/slow_handlers/client.py tcp://127.0.0.1:14480 tcp://127.0.0.1:14481

`concurrency` is how many handlers of one socket may run at the same time. When all are busy, nothing more is read, and
ZeroMQ's high-water mark pushes back on the peers. The configuration can change it.
"""

import gevent

from dploylib import servers
from dploylib.services import Service


class SlowServer(servers.Server):
    def setup(self):
        self.seconds = self.settings.get("seconds")
        self.running = 0

    def wait(self):
        """Stand in for a query to a database; return how many handlers are at it."""
        self.running += 1
        gevent.sleep(self.seconds)  # waiting must be the green way: time.sleep() would stop everything
        running, self.running = self.running, self.running - 1
        return running

    @servers.bind_in("work", "rep", concurrency=100)
    def work(self, socket, received):
        return {"number": received.json, "at once": self.wait()}

    @servers.bind_in("progress", "router", concurrency=100)
    def progress(self, socket, received):
        # A router may answer as often as it likes. The request frames of an envelope say whom.
        socket.send_envelope(received.envelope.response_envelope("text/plain", "started"))
        self.wait()
        return "finished"


service = Service()
service.add_server("slow", SlowServer)
