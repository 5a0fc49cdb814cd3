"""The broadcast: what becomes of jobs, and what apps log, for whoever listens.

    dploylib run examples.dploy.broadcast -c examples/dploy/broadcast.yaml

Whoever begins to listen to the id of a job gets the last message about it. Nothing is kept on disk: how jobs ended is
remembered by those who did them.
"""

from dploylib.servers.generic import BroadcastServer
from dploylib.services import Service, ServiceTemplate


class BroadcastTemplate(ServiceTemplate):
    servers = {"broadcast": BroadcastServer}


service = Service(templates=[BroadcastTemplate])
