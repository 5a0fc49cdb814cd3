"""Work in the background: what a server does besides answering.

    dploylib run examples/ticker/service.py -c examples/ticker/config.yaml
    dploylib listen tcp://127.0.0.1:14495

Everything here lives and dies with the server: Ctrl-C ends the greenlets, then `teardown` runs, then the sockets close.
"""

import gevent.queue

from dploylib import servers
from dploylib.services import Service


class TickerServer(servers.Server):
    publish = servers.bind("out", "pub")

    def setup(self):
        """Prepare: the sockets are bound, and nothing has been received yet."""
        self.ticks = gevent.queue.Queue()
        self.published = 0
        self.spawn(self.publish_ticks)  # when this function raises, the server fails, and with it the service

    @servers.every(0.5)  # seconds
    def tick(self):
        self.ticks.put("tick")  # when this raises, that is logged, and the next call comes in time

    def publish_ticks(self):
        for text in self.ticks:
            self.published += 1
            self.sockets.publish.send_text(f"{text} {self.published}", id="ticks")

    def teardown(self):
        """Tidy up: the greenlets have ended, and the sockets can still send."""
        self.sockets.publish.send_text(f"goodbye after {self.published}", id="ticks")


service = Service()
service.add_server("ticker", TickerServer)
