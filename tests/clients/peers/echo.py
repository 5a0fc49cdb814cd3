"""A bare pyzmq echo in a process of its own: `echo.py ENDPOINT`. It prints its endpoint, and answers `PID BODY`.

What it is asked with a body of `mute` stays unanswered, and is printed.
"""

import os
import sys

import zmq

context = zmq.Context()
socket = context.socket(zmq.ROUTER)
socket.bind(sys.argv[1])
print(socket.last_endpoint.decode(), flush=True)
while True:
    frames = socket.recv_multipart()
    if frames[-1] == b"mute":
        print("mute", flush=True)
    else:
        frames[-1] = b"%d %s" % (os.getpid(), frames[-1])
        socket.send_multipart(frames)
