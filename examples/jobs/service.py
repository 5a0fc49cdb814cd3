"""A queue of jobs, which are kept in a file until one of two workers has done them.

    dploylib run examples/jobs/service.py -c examples/jobs/config.yaml
    python examples/jobs/client.py tcp://127.0.0.1:14490 tcp://127.0.0.1:14491

Kill the service in the middle, and start it again: nothing that was accepted is lost.
"""

import logging

import gevent
from msgspec import Struct

from dploylib.servers.generic import QueueServer, Worker
from dploylib.services import Service

log = logging.getLogger(__name__)


class Picture(Struct):
    name: str
    width: int


class Resizer(Worker):
    deserializer = Picture

    def work(self, received):
        picture = received.obj
        gevent.sleep(0.05)
        if picture.name == "moody.jpg" and received.metadata.attempt == 1:
            raise RuntimeError("not today")  # it is tried again
        log.info(
            "%s: %s is %d pixels wide (attempt %d)", self.name, picture.name, picture.width, received.metadata.attempt
        )


service = Service()
service.add_server("jobs", QueueServer)
service.add_server("one", Resizer)
service.add_server("two", Resizer)
