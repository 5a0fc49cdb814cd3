"""A peer in a process of its own: `peers.py TYPE ENDPOINT`. It sends each line that it reads, and prints the reply."""

import sys

import zmq

kind, endpoint = sys.argv[1:]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind.upper()))
socket.linger = 0
socket.connect(endpoint)
for line in sys.stdin:
    socket.send_multipart([b"", b"text/plain", line.strip().encode()])
    print(socket.recv_multipart()[-1].decode(), flush=True)
context.destroy()
