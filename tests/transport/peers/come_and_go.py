"""Connects, receives a message or two, and goes away, again and again: `come_and_go.py TYPE ENDPOINT TIMES`."""

import sys

import zmq

kind, endpoint, times = sys.argv[1:]
context = zmq.Context()
received = 0
for turn in range(int(times)):
    socket = context.socket(getattr(zmq, kind.upper()))
    socket.rcvhwm = 1
    socket.linger = 0
    socket.connect(endpoint)
    for _ in range(turn % 4):
        if not socket.poll(1000):
            break
        frames = [frame.split() for frame in socket.recv_multipart()]
        number = frames[0][0]
        if frames != [[number, b"%d" % index] for index in range(60)]:
            print("mixed", frames, flush=True)
        received += 1
    socket.close()
print("whole", received, flush=True)
print("done", flush=True)
context.destroy(linger=0)
