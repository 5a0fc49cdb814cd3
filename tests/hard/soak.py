"""Mixed load for minutes against one service, most of it of the bad kind: `python -m tests.hard.soak --minutes 10`.

Beside good requests on all sockets there are slow and failing handlers, malformed messages, garbage over TCP, peers
that come and go, or are killed in the middle of a request, and subscribers that read nothing. It fails (status 1) when
a good request goes without its answer, another process answers, memory or file descriptors grow, or greenlets pile up.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from random import Random

import gevent
from gevent import subprocess  # the one that lets the others go on meanwhile
from gevent.event import Event

from tests.hard.garbage import AFTER_THE_HANDSHAKE, BEFORE_THE_HANDSHAKE, no_envelope
from tests.hard.running import RunningTarget, ask, wait_until
from tests.hard.zmtp import Connection, message

PEERS = Path(__file__).with_name("peers.py")
REPORT_SECONDS = 30.0
WARM_UP = 0.25  # of the time: until then allocators get what they keep, and queues of stalled subscribers fill
ENOUGH = 50  # samples, one every two seconds, from which on it can be said whether memory grows
GROWTH = 4 * 2**20  # bytes by which memory may differ between the first and the last third of what follows
# Socket, mimetype and body of a good request, and the body of its reply.
GOOD = [
    ("rep", b"text/plain", b"hello", b"hello"),
    ("pool", b"text/plain", b"sleep", b"sleep"),
    ("timed", b"text/plain", b"sleep", b"sleep"),
    ("router", b"text/plain", b"hello", b"hello"),
    ("objects", b"application/json", b'{"item":"tea"}', b'{"item":"tea","count":1}'),
]
ATTACKED = {
    "REQ": ("rep", "pool", "router", "objects"),
    "DEALER": ("rep", "pool", "router", "dealer", "objects"),
    "PUSH": ("pull",),
    "PUB": ("sub",),
    "SUB": ("news", "feed"),
}


def grown(samples: Sequence[int]) -> float:
    """How much more the last third of the samples is than the first, by their medians, after the warm-up."""
    flat = samples[int(len(samples) * WARM_UP) :]
    third = max(1, len(flat) // 3)
    return statistics.median(flat[-third:]) - statistics.median(flat[:third])


class Soak:
    """The load, and what came of it."""

    def __init__(self, target: RunningTarget, seed: str) -> None:
        self.target = target
        self.random = Random(seed)
        self.did: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = Event()
        self._began = time.monotonic()
        self._memory: list[int] = []
        self._greenlets: list[int] = []

    # What is done, again and again -------------------------------------------------------------------------------

    def good(self, name: str, mimetype: bytes, body: bytes, expected: bytes) -> None:
        """Requests over a connection that stays."""
        with self.target.peer("req", name) as peer:
            while not self.over.is_set():
                answer = ask(peer, b"", mimetype, body)
                assert answer[-1] == expected, f"{name}: {answer!r}"
                self.did["good"] += 1
                gevent.sleep(0.002)

    def new_peer(self) -> None:
        """A good request of a peer that was not there before, within a second."""
        self.target.still_well()
        self.did["good"] += 1

    def pushed(self) -> None:
        """What is pushed and published to the service arrives."""
        with self.target.peer("push", "pull") as pusher, self.target.peer("xpub", "sub") as publisher:
            publisher.recv_multipart()
            heard = self.target.state()["heard"].get("good", 0)
            while not self.over.is_set():
                for peer in (pusher, publisher):
                    peer.send_multipart([b"good", b"text/plain", b"x"])
                heard += 2
                wait_until(lambda expected=heard: self.target.state()["heard"].get("good", 0) == expected)
                self.did["good"] += 2
                gevent.sleep(0.05)

    def subscribed(self) -> None:
        """What the service publishes keeps coming."""
        with self.target.peer("sub", "news", subscribe=b"tick") as peer:
            while not self.over.is_set():
                with gevent.Timeout(20, TimeoutError("nothing is published any more")):
                    assert peer.recv_multipart()[0] == b"tick"
                self.did["heard"] += 1

    def failing(self) -> None:
        assert b"urn:dploylib:handler-failed" in self.target.ask("pool", b"fail")[-1]
        assert b"urn:dploylib:invalid-data" in self.target.ask("objects", b"{}", b"application/json")[-1]
        self.did["expected errors"] += 2

    def malformed(self) -> None:
        with closing(Connection(self.target.endpoints["pool"])) as connection:
            connection.shake_hands("DEALER")
            for number in range(self.random.randint(1, 20)):
                route = b"%d" % number
                answer = connection.ask([route, b"", *no_envelope(self.random)])
                assert answer[:2] == [route, b""], answer
                self.did["expected errors"] += 1

    def garbage(self) -> None:
        with ExitStack() as stack:
            for _ in range(10):
                socket_type = self.random.choice(list(ATTACKED))
                endpoint = self.target.endpoints[self.random.choice(ATTACKED[socket_type])]
                connection = stack.enter_context(closing(Connection(endpoint)))
                if self.random.random() < 0.5:
                    connection.send(self.random.choice(BEFORE_THE_HANDSHAKE)(self.random))
                else:
                    connection.shake_hands(socket_type).send(self.random.choice(AFTER_THE_HANDSHAKE)(self.random))
                self.did["garbage"] += 1

    def churn(self) -> None:
        with closing(Connection(self.target.endpoints["rep"])) as connection:
            connection.shake_hands("REQ").send(message([b"", b"", b"text/plain", b"and gone"]))
        self.did["churn"] += 1

    def killed(self) -> None:
        """A peer that is killed in the middle of its request."""
        before = self.target.state()["heard"].get("hold", 0)
        peer = subprocess.Popen(
            [sys.executable, str(PEERS), "req", self.target.endpoints["pool"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        assert peer.stdin is not None
        try:
            peer.stdin.write(b"hold\n")
            peer.stdin.flush()
            wait_until(lambda: self.target.state()["heard"].get("hold", 0) > before)
        finally:
            peer.kill()
            peer.wait()
            peer.stdin.close()
        self.target.state("release")
        self.did["killed"] += 1

    def stalled(self) -> None:
        """A subscriber that reads nothing for as long as it takes to fill its queue, and then leaves."""
        with closing(Connection(self.target.endpoints["news"])) as connection:
            connection.shake_hands("SUB").send(message([b"\x01tick"]))
            self.over.wait(30)
        self.did["stalled"] += 1

    # The run -------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[str]:
        """Do all of it for so long, tell how it goes, and return what is wrong."""
        before = self.target.settled()
        actors = [
            gevent.spawn(self._again, act, pause)
            for act, pause in [
                *((partial(self.good, *request), 0) for request in GOOD),
                (self.pushed, 0),
                (self.subscribed, 0),
                (self.stalled, 0),
                (self.stalled, 0),
                (self.new_peer, 0.05),
                (self.failing, 0.05),
                (self.malformed, 0.05),
                (self.garbage, 0.1),
                (self.churn, 0.01),
                (self.killed, 2),
                (self.measure, 2),
                (self.report, min(REPORT_SECONDS, seconds / 3)),
            ]
        ]
        while time.monotonic() - self._began < seconds and not self.wrong:
            gevent.sleep(0.1)
        self.over.set()
        if self.wrong:
            gevent.killall(actors)
        else:
            gevent.joinall(actors)
            self._look_back(before)
        return self.wrong

    def _again(self, act: Callable[[], None], pause: float) -> None:
        while not self.over.is_set():
            try:
                act()
            except (Exception, gevent.Timeout) as error:  # noqa: BLE001 - whatever it was, the soak has failed
                self.wrong.append(f"{getattr(act, '__name__', act)}: {type(error).__name__}: {error}")
                return
            self.over.wait(pause)

    def measure(self) -> None:
        """The memory of the service without what the allocator keeps, for the end."""
        self.target.state("collect")
        self._memory.append(self.target.resident())

    def report(self) -> None:
        """A line about how it goes."""
        self._greenlets.append(self.target.state()["greenlets"])
        done = ", ".join(f"{count} {what}" for what, count in sorted(self.did.items()))
        print(
            f"{time.monotonic() - self._began:5.0f} s: {done}, {len(self.wrong)} unexpected errors; "
            f"{self.target.resident() / 2**20:.1f} MiB, {self.target.descriptors()} descriptors, "
            f"{self._greenlets[-1]} greenlets",
            flush=True,
        )

    def _look_back(self, before: int) -> None:
        """What must be as it was."""
        self.target.still_well()
        if len(self._memory) >= ENOUGH:
            more = grown(self._memory)
            print(f"memory has grown by {more / 2**20:.1f} MiB since the warm-up")
            if more > GROWTH:
                self.wrong.append(f"memory has grown by {more / 2**20:.1f} MiB since the warm-up")
        try:
            wait_until(lambda: self.target.descriptors() <= before)
        except TimeoutError:
            self.wrong.append(f"{self.target.descriptors()} descriptors are open, {before} were before")
        if self._greenlets[-1] > 2 * self._greenlets[0] + 20:
            self.wrong.append(f"greenlets pile up: {self._greenlets}")
        if self.target.stop() != 0:
            self.wrong.append(f"it did not end in peace: status {self.target.process.returncode}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. The exit status."""
    parser = argparse.ArgumentParser(prog="soak", description="Mixed load for minutes against one service.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", default=str(int.from_bytes(os.urandom(4), "big")))
    options = parser.parse_args(arguments)
    print(f"{options.minutes:g} minutes, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        target = RunningTarget(Path(directory))
        try:
            wrong = Soak(target, options.seed).run(options.minutes * 60)
            if wrong:
                print(*wrong, target.last_log(), sep="\n")
        finally:
            target.end()
    print("failed" if wrong else "good")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
