"""Publishes each line that it reads, `ID TEXT`, with nothing but pyzmq. Prints the endpoint that it is bound to."""

import sys

import zmq

socket = zmq.Context().socket(zmq.PUB)
socket.bind(sys.argv[1])
print(socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode(), flush=True)
for line in sys.stdin:
    id, _, text = line.rstrip("\n").partition(" ")
    socket.send_multipart([id.encode(), b"text/plain", text.encode()])
