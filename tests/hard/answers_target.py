"""A service whose handlers wait for as long as it runs, and one that answers at once."""

import gevent

from dploylib import Server, Service, bind_in


class Waiting(Server):
    @bind_in("wait", "rep", concurrency=10_000)
    def wait(self, socket, received):
        gevent.sleep(3600)

    @bind_in("echo", "rep")
    def echo(self, socket, received):
        return received.text


service = Service()
service.add_server("waiting", Waiting)
