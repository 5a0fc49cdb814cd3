"""One request through two servers, and what the log and OpenTelemetry say of it.

    dploylib run examples/tracing/service.py -c examples/tracing/config.yaml
    python examples/tracing/client.py tcp://127.0.0.1:14510

The client begins a trace, and each line of the log about it has its id, whichever server it is from. With
OTEL_TRACES_EXPORTER=console in the environment of the service, and with the extra `otel`, there are spans besides: one
for each handler, and one for the call in between.
"""

import logging

from dploylib import RequestClient, Server, Service, bind_in

log = logging.getLogger("shop")


class StockServer(Server):
    """Knows how many there are."""

    def setup(self):
        self.left = {"socks": 10}

    @bind_in("request", "rep")
    def take(self, socket, received):
        left = self.left.get(received.text, 0)
        log.info("%d left", left)
        self.left[received.text] = max(0, left - 1)
        return left > 0


class OrderServer(Server):
    """Takes orders, and asks for what is there. It says nothing of traces: they are passed on."""

    def setup(self):
        self.stock = RequestClient(self.settings.get("stock"), self.context)

    def teardown(self):
        self.stock.close()

    @bind_in("request", "rep", concurrency=10)
    def order(self, socket, received):
        there = self.stock.request(received.text).json
        log.info("ordered" if there else "out of stock")
        return "on its way" if there else "later"


service = Service()
service.add_server("stock", StockServer)
service.add_server("orders", OrderServer)
