"""Sends the frames it reads: `push.py push|pub ENDPOINT`. A message is a line of hexadecimal. PUB waits for a SUB."""

import sys

import zmq

kind, endpoint = sys.argv[1:]
context = zmq.Context()
socket = context.socket(zmq.XPUB if kind == "pub" else zmq.PUSH)
socket.linger = 10_000
socket.connect(endpoint)
if kind == "pub":
    socket.recv()  # the subscription
for line in sys.stdin:
    socket.send_multipart([bytes.fromhex(frame) for frame in line.strip().split(",")])
socket.close()
context.term()
