"""The queues: build requests wait for the build center, and orders for the zone.

    dploylib run examples.dploy.queues -c examples/dploy/queues.yaml

A job that was accepted is on the disk, and is handed out until somebody has done it.
"""

from dploylib.servers.generic import QueueServer
from dploylib.services import Service, ServiceTemplate


class QueuesTemplate(ServiceTemplate):
    servers = {"builds": QueueServer, "orders": QueueServer}


service = Service(templates=[QueuesTemplate])
