"""Clients that ask without pause, of pyzmq alone, until stdin is closed: `req_clients.py ENDPOINT NUMBER`.

Prints as JSON what came of it: requests, answers, problems by their titles, requests without an answer, answers that
are not for the request, and the longest time in seconds that one took.
"""

import collections
import json
import select
import sys
import time

import zmq

ANSWER_WITHIN = 20.0  # seconds, after which nobody waits any more


def main(endpoint: str, number: int) -> None:
    context = zmq.Context()
    poller = zmq.Poller()
    asked: dict[zmq.Socket, tuple[bytes, float]] = {}
    problems: collections.Counter[str] = collections.Counter()
    counts = dict.fromkeys(("requests", "answers", "wrong", "silent"), 0)
    longest = 0.0

    def ask(req: zmq.Socket) -> None:
        counts["requests"] += 1
        body = b"%d" % counts["requests"]
        req.send_multipart([body, b"text/plain", body])
        asked[req] = body, time.monotonic()

    for _ in range(number):
        req = context.socket(zmq.REQ)
        req.connect(endpoint)
        poller.register(req, zmq.POLLIN)
        ask(req)
    over = False
    while asked:
        over = over or bool(select.select([sys.stdin], [], [], 0)[0])
        for req, _ in poller.poll(100):
            body, began = asked.pop(req)
            id, mimetype, answer = req.recv_multipart()
            longest = max(longest, time.monotonic() - began)
            if mimetype == b"application/problem+json":
                problems[json.loads(answer)["title"]] += 1
            counts["answers"] += 1
            counts["wrong"] += id != body or not (answer.endswith(body) or mimetype.endswith(b"json"))
            if not over:
                ask(req)
        for req in [req for req, (_, began) in asked.items() if time.monotonic() - began > ANSWER_WITHIN]:
            del asked[req]
            counts["silent"] += 1
    print(json.dumps({**counts, "problems": problems, "longest": longest}))
    context.destroy(linger=0)


main(sys.argv[1], int(sys.argv[2]))
