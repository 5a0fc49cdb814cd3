"""Answers each message as a REP or ROUTER does: with the frames it reads: `answer.py rep|router`.

It prints its endpoint, and then every message it gets; a ROUTER without the first frame, which it sends back first.
"""

import sys

import zmq

kind = sys.argv[1]
context = zmq.Context()
socket = context.socket(getattr(zmq, kind.upper()))
socket.linger = 1000
socket.bind("tcp://127.0.0.1:*")
print(socket.last_endpoint.decode(), flush=True)
for line in sys.stdin:
    frames = socket.recv_multipart()
    route = [frames.pop(0)] if kind == "router" else []
    print(",".join(frame.hex() for frame in frames), flush=True)
    socket.send_multipart([*route, *(bytes.fromhex(frame) for frame in line.strip().split(","))])
context.destroy()
