"""The service that is stopped again and again, under load. It tells what it has received when it has ended."""

import json

import gevent

from dploylib import Server, Service, bind_in
from dploylib.servers import Hook


class Stopping(Server):
    @bind_in("one", "rep")
    def one(self, socket, received):
        gevent.sleep(0.001)
        return received.text

    @bind_in("many", "rep", concurrency=20)
    def many(self, socket, received):
        gevent.sleep(0.01)
        return received.text

    @bind_in("router", "router")
    def router(self, socket, received):
        socket.send_envelope(received)


class Tells(Hook):
    def server_started(self, server):
        server.spawn(self.announce, server)

    def announce(self, server):
        print(json.dumps(server.endpoints), flush=True)

    def server_stopped(self, server):
        print(json.dumps({name: counts.received for name, counts in server.counts.items()}), flush=True)


service = Service(hooks=[Tells()])
service.add_server("stopping", Stopping)
