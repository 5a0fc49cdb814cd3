"""A server of plain pyzmq, which looks at who connects with pyzmq's own authenticator: `stock_server.py KEYS SECRET`.

It prints its endpoints, and then what it pulls; it publishes news all the time, and answers requests.
"""

import json
import sys

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

keys, secret_key = sys.argv[1:]
context = zmq.Context()
authenticator = ThreadAuthenticator(context)
authenticator.start()
authenticator.configure_curve(location=keys)
poller = zmq.Poller()
sockets = {}
for name in ("REP", "PULL", "PUB"):
    sockets[name] = context.socket(getattr(zmq, name))
    sockets[name].linger = 0
    sockets[name].curve_secretkey = zmq.auth.load_certificate(secret_key)[1]
    sockets[name].curve_server = True
    sockets[name].bind("tcp://127.0.0.1:*")
for name in ("REP", "PULL"):
    poller.register(sockets[name], zmq.POLLIN)
print(json.dumps({name: socket.last_endpoint.decode() for name, socket in sockets.items()}), flush=True)
while True:
    ready = dict(poller.poll(20))
    if sockets["REP"] in ready:
        sockets["REP"].send_multipart(sockets["REP"].recv_multipart())
    if sockets["PULL"] in ready:
        print(sockets["PULL"].recv_multipart()[-1].decode(), flush=True)
    sockets["PUB"].send_multipart([b"", b"text/plain", b"from a pub"])
