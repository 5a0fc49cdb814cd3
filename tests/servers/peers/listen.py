"""Subscribes to ids, with nothing but pyzmq, and prints the bodies that come: `listen.py ENDPOINT ID...`."""

import sys

import zmq

socket = zmq.Context().socket(zmq.SUB)
for id in sys.argv[2:]:
    socket.subscribe(id)
socket.connect(sys.argv[1])
while True:
    print(socket.recv_multipart()[-1].decode(), flush=True)
