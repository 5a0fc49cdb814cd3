"""Asks what it reads, a line at a time, until an echo comes: `ask.py ENDPOINT`. Prints the echoes."""

import sys

import zmq

context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.connect(sys.argv[1])
for line in sys.stdin:
    question, answer = line.strip().encode(), None
    while answer != question:
        socket.send_multipart([b"", b"", b"text/plain", question])
        while answer != question and socket.poll(500):  # what was on its way when a connection broke never comes
            answer = socket.recv_multipart()[-1]
    print(answer.decode(), flush=True)
context.destroy(linger=0)
