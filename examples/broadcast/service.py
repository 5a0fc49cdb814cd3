"""What comes in at one socket goes out to everybody who listens at another one.

    dploylib run examples/broadcast/service.py -c examples/broadcast/config.yaml
    dploylib listen tcp://127.0.0.1:14461
    dploylib send tcp://127.0.0.1:14460 'good morning'

Listeners see what is sent while they are connected. With `--id news` they see only what has an id that begins so.
"""

from dploylib import servers
from dploylib.services import Service


class BroadcastServer(servers.Server):
    # A bound socket that does not listen: it is for output.
    publish = servers.bind("out", "pub")

    @servers.bind_in("in", "pull")
    def receive_message(self, socket, received):
        self.sockets.publish.send_envelope(received)


service = Service()
service.add_server("broadcast", BroadcastServer)
