"""A service that is encrypted, knows who asks, and lets only cooks cook.

Make keys for the service and its two clients, and say who may connect:

    dploylib keygen kitchen
    dploylib keygen alice
    dploylib keygen bob
    dploylib key authorize authorized/ alice.key --group cooks
    dploylib key authorize authorized/ bob.key

Then let both ask. Bob is told that this is not for him; without a key, nobody is answered at all:

    dploylib run examples/secured/service.py -c examples/secured/config.yaml
    dploylib call tcp://127.0.0.1:14500 soup --server-key kitchen.key --key alice.key_secret
    dploylib call tcp://127.0.0.1:14500 soup --server-key kitchen.key --key bob.key_secret
    dploylib call tcp://127.0.0.1:14500 soup

Take away alice's key while the service runs, and ask again:

    dploylib key revoke authorized/ alice
    dploylib call tcp://127.0.0.1:14500 soup --server-key kitchen.key --key alice.key_secret
"""

from dploylib import Server, Service, servers


class Kitchen(Server):
    @servers.bind_in("cook", "rep")
    @servers.allow("cooks")
    def cook(self, socket, received):
        return f"{received.text}, by {received.peer.name}"


service = Service()
service.add_server("kitchen", Kitchen)
