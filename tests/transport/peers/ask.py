"""Sends the frames it reads, prints those it gets: `ask.py req|dealer ENDPOINT`. A message is a line of hexadecimal."""

import sys

import zmq

kind, endpoint = sys.argv[1:]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind.upper()))
socket.linger = 0
socket.rcvtimeo = 20_000
socket.connect(endpoint)
for line in sys.stdin:
    socket.send_multipart([bytes.fromhex(frame) for frame in line.strip().split(",")])
    print(",".join(frame.hex() for frame in socket.recv_multipart()), flush=True)
context.destroy()
