"""Prints the endpoint that it is bound to, and the body of each message that it is pushed. Nothing but pyzmq."""

import sys

import zmq

socket = zmq.Context().socket(zmq.PULL)
socket.rcvhwm = 10
socket.rcvbuf = 100_000  # some kernels have room for 32 MB, otherwise
socket.bind(sys.argv[1])
print(socket.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode(), flush=True)
while True:
    print(socket.recv_multipart()[-1][:20].decode(), flush=True)
