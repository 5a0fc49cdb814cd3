"""Prints the messages it gets: `hear.py pull|sub ENDPOINT COUNT [TOPIC]`. A message is a line of hexadecimals."""

import sys

import zmq

kind, endpoint, count, *topic = sys.argv[1:]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind.upper()))
socket.rcvtimeo = 20_000
if kind == "sub":
    socket.subscribe = topic[0].encode()
socket.connect(endpoint)
for _ in range(int(count)):
    print(",".join(frame.hex() for frame in socket.recv_multipart()), flush=True)
context.destroy()
