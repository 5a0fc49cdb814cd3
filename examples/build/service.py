"""A service that answers at once, and broadcasts what becomes of each request.

    dploylib run examples/build/service.py -c examples/build/config.yaml
    python examples/build/client.py tcp://127.0.0.1:14485 tcp://127.0.0.1:14486

What is broadcast about a request has the id of the request, so that everybody can choose whom to listen to.
"""

import gevent

from dploylib import servers
from dploylib.services import Service


class BuildServer(servers.Server):
    out = servers.bind("out", "pub")

    @servers.bind_in("request", "rep", concurrency=10)
    def build(self, socket, received):
        app = received.json["app"]
        self.spawn(self.work, received.id, app)
        return {"accepted": app}

    def work(self, id, app):
        for line in (f"fetching {app}", f"building {app}"):
            self.tell(id, "output", {"type": "line", "data": line})
            gevent.sleep(0.1)
        if app == "broken":
            self.tell(id, "status", {"type": "error", "data": "it does not compile"})
        else:
            self.tell(id, "status", {"type": "completed"})

    def tell(self, id, kind, body):
        self.sockets.out.send_json({"type": kind, "body": body}, id=id)


service = Service()
service.add_server("builder", BuildServer)
