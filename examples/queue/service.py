"""A queue of build requests: handlers that get objects and answer with objects.

    dploylib run examples/queue/service.py -c examples/queue/config.yaml
    dploylib call tcp://127.0.0.1:14470 --json '{"app": "shop", "commit": "1f3a"}'
    dploylib call tcp://127.0.0.1:14471 --json '{"limit": 10}'

A body that is no such object is answered by a problem that says why; the handler is not bothered with it:

    dploylib call tcp://127.0.0.1:14471 --json '{"limit": "ten"}'
"""

from collections import deque

import msgspec

from dploylib import servers
from dploylib.services import Service


class BuildRequest:
    """A class of any kind: `deserialize` makes one of data, `serialize` makes data of it."""

    def __init__(self, app, commit):
        self.app = app
        self.commit = commit

    @classmethod
    def deserialize(cls, data):
        return cls(data["app"], data["commit"])

    def serialize(self):
        return {"app": self.app, "commit": self.commit}


class Take(msgspec.Struct):
    """A msgspec Struct needs neither: the types of its fields are checked."""

    limit: int = 1


class Ticket(msgspec.Struct):
    position: int


class QueueServer(servers.Server):
    def setup(self):
        self.waiting = deque()

    @servers.bind_in("put", "rep", obj=BuildRequest)
    def put(self, socket, received):
        self.waiting.append(received.obj)
        return Ticket(position=len(self.waiting))

    @servers.bind_in("take", "rep", obj=Take)
    def take(self, socket, received):
        count = min(received.obj.limit, len(self.waiting))
        return [self.waiting.popleft() for _ in range(count)]


service = Service()
service.add_server("queue", QueueServer)
