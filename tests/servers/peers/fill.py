"""Sends numbered envelopes as fast as it can, and says when it is stuck: `fill.py TYPE ENDPOINT COUNT SIZE`."""

import sys

import zmq

kind, endpoint, count, size = sys.argv[1:]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind.upper()))
socket.sndhwm = 10
socket.sndbuf = 65536
socket.connect(endpoint)
front = [b""] if kind == "dealer" else []
body = b"x" * int(size)
for number in range(int(count)):
    while not socket.poll(200, zmq.POLLOUT):
        print(number, flush=True)  # so many were sent
    socket.send_multipart([*front, b"%d" % number, b"m", body], zmq.DONTWAIT)
print("all", flush=True)
sys.stdin.read()
context.destroy(linger=0)
