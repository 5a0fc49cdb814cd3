"""Clients of `figures_target.py`, of pyzmq alone, that know what their service has to have counted.

`figures_clients.py JSON`: what to do. Prints a line when half of it is done, and in the end what they know, as JSON.
"""

import json
import math
import random
import sys
import time
from collections import Counter
from typing import Any

import msgspec
import zmq

CONNECTIONS = 8  # to each socket
BAD = {"fail": "handler-failed", "refuse": "unexpected-mimetype", "malformed": "malformed-envelope"}
LATE = "deadline-exceeded"
DEADLINE = 2  # milliseconds of what takes 50
PATIENCE = 60_000  # milliseconds


def planned(requests: int, milliseconds: float, seed: int) -> list[tuple[str, str, int]]:
    """All requests in order: the socket, what its handler is told, and how many bytes are sent back and forth.

    Of ten, nine take a time whose logarithm is normally distributed; of the tenth, which takes none, some are bad.
    """
    chance = random.Random(seed)
    plan = []
    for number in range(requests):
        size = chance.randrange(1000)
        if number % 10:
            seconds = milliseconds / 1000 * math.exp(chance.gauss(0, 0.5))
            plan.append(("timed", str(int(seconds * 1e6)), size))
        else:
            plan.append(("quick", ("0", "fail", "0", "refuse", "0", "malformed", "0", "late")[number // 10 % 8], size))
    chance.shuffle(plan)
    return plan


class Clients:
    """Keeps some requests on their way, and notes what comes back."""

    def __init__(self, endpoints: dict[str, str]) -> None:
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets = {
            name: [self._connected(endpoint) for _ in range(CONNECTIONS)] for name, endpoint in endpoints.items()
        }
        self._sent: dict[bytes, tuple[str, str, float]] = {}
        self.took: dict[str, list[float]] = {"timed": [], "quick": []}  # seconds, of what was answered well
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in endpoints}
        self.problems: dict[str, Counter[str]] = {name: Counter() for name in endpoints}
        self.wrong = 0

    def _connected(self, endpoint: str) -> Any:
        socket = self._context.socket(zmq.DEALER)
        socket.connect(endpoint)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    @property
    def waiting(self) -> int:
        return len(self._sent)

    def send(self, number: int, name: str, what: str, size: int) -> None:
        said = {"r": number, "s": time.time(), **({"d": DEADLINE} if what == "late" else {})}
        frame = b"DPL1" + msgspec.msgpack.encode(said)
        body = f"{'50000' if what == 'late' else what} ".encode() + b"x" * size
        frames = [frame, b"", body] if what == "malformed" else [frame, b"", b"", b"text/plain", body]
        self.counts[name]["received"] += 1
        self.counts[name]["bytes_received"] += len(body)
        self._sent[frame] = name, what, time.perf_counter()
        self._sockets[name][number % CONNECTIONS].send_multipart(frames)

    def receive(self) -> None:
        """Receive all that has come, or wait until something has."""
        ready = self._poller.poll(PATIENCE)
        if not ready:
            raise TimeoutError(f"{len(self._sent)} requests are not answered")
        for socket, _ in ready:
            while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                frame, _, _, mimetype, body = socket.recv_multipart()
                name, what, began = self._sent.pop(frame)
                self._note(name, what, time.perf_counter() - began, mimetype, body)

    def _note(self, name: str, what: str, seconds: float, mimetype: bytes, body: bytes) -> None:
        self.counts[name]["sent"] += 1
        self.counts[name]["bytes_sent"] += len(body)
        problem = ""
        if mimetype == b"application/problem+json":
            problem = json.loads(body)["type"].rpartition(":")[2]
            self.problems[name][problem] += 1
        else:
            self.took[name].append(seconds)
        self.wrong += problem != BAD.get(what, LATE if what == "late" else "")


def main(
    endpoints: dict[str, str], requests: int, outstanding: int, milliseconds: float, seed: int, pauses: bool
) -> None:
    """Send all requests. With `pauses`, half of them are answered and a line has come before the others are sent."""
    plan = planned(requests, milliseconds, seed)
    clients = Clients(endpoints)
    for number, one in enumerate(plan):
        if number == requests // 2:
            while pauses and clients.waiting:
                clients.receive()
            print("half", flush=True)
            if pauses:
                sys.stdin.readline()
        while clients.waiting >= outstanding:
            clients.receive()
        clients.send(number, *one)
    while clients.waiting:
        clients.receive()
    known = {"counts": clients.counts, "problems": clients.problems, "took": clients.took, "wrong": clients.wrong}
    print(json.dumps(known), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
