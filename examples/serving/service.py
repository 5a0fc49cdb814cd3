"""A daemon: two workers, a server of which there is one, and hooks that watch over them.

    dploylib serve examples/serving/service.py -c examples/serving/config.yaml
    python examples/serving/client.py tcp://127.0.0.1:14520 tcp://127.0.0.1:14521

README.md beside this file goes on from there: it adds a worker, reloads, and breaks things.
"""

import os

from dploylib.servers import Server, bind_in
from dploylib.services import Service


class GreeterServer(Server):
    """Is in every worker. Says the same twice when it is asked twice, so what a killed worker had goes to another."""

    @bind_in("request", "rep", concurrency=100, idempotent=True)
    def greet(self, socket, received):
        greeting = self.settings.get("greeting", "hello")
        return {"text": f"{greeting}, {received.text}", "process": os.getpid()}


class NumbersServer(Server):
    """Is in one process only: several would give out the same numbers. The next process begins with 1 again."""

    single = True

    def setup(self):
        self.last = 0

    @bind_in("request", "rep")
    def next(self, socket, received):
        self.last += 1
        return {"number": self.last, "process": os.getpid()}


service = Service()
service.add_server("greeter", GreeterServer)
service.add_server("numbers", NumbersServer)
