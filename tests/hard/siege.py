"""Those who have keys, while ten thousand who have none are at the door: `python -m tests.hard.siege`.

Prints how long the requests of authorized clients take: quiet, and under each kind of attack (`intruders.py`), alone
and together. The intruders have the lowest priority: what they take from the service is what it does for them, and not
what the processors do for them. `test_security.py` lets the same go on, and looks at what it leaves behind.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess  # the one that lets the others go on meanwhile

from dploylib.security import KeyPair, authorize, write_key_pair
from tests.hard.running import ROOT, RunningTarget, ask

INTRUDERS = Path(__file__).with_name("intruders.py")
SECURED = "pool"
CLIENTS = 4
HELD = 10_000
PER_ADDRESS = 1000  # of which more are put out again at once: the setting max_connections_per_address
DESCRIPTORS = 13_000
PATIENCE = 60.0  # seconds; an upper bound for what takes some, on a loaded machine too
# Kind, number, and the address that they come from, in 127.0.0.0/24.
HOLDERS = [("hold", PER_ADDRESS - 50, address) for address in range(2, 13)]
TOO_MANY = [("hold", PER_ADDRESS + 100, 13)]  # more than there may be: they come again as soon as they are put out
FUZZERS = [("fuzz", 100, 20), ("fuzz", 100, 21)]
STRANGERS = [("stranger", 20, 30)]
ATTACKS = {
    "held": HOLDERS,
    "fuzzed": FUZZERS,
    "both": HOLDERS + FUZZERS,
    "strangers": STRANGERS,
    "too many": TOO_MANY,
    "all of it": HOLDERS + TOO_MANY + FUZZERS + STRANGERS,
}


class Besieged:
    """A target whose socket is secured, and authorized clients that keep asking it."""

    def __init__(self, directory: Path) -> None:
        server, self._client = KeyPair.generate(), KeyPair.generate()
        write_key_pair(directory / "server", server)
        authorize(f"{directory}/authorized/", "client", self._client.public)
        security = {"secret_key": f"{directory}/server.key_secret", "authorized_keys": f"{directory}/authorized/"}
        self.target = RunningTarget(directory, descriptors=DESCRIPTORS, security={SECURED: security})
        self.server_key = server.public
        self._options = {
            "curve_publickey": self._client.public.encode(),
            "curve_secretkey": self._client.secret,
            "curve_serverkey": server.public.encode(),
        }

    def peer(self) -> Any:
        """An authorized client."""
        return self.target.peer("req", SECURED, **self._options)

    def ask_until(self, over: Callable[[], bool]) -> list[float]:
        """Let the clients ask until it is over. Returns how long each request took, in seconds."""
        took: list[float] = []

        def keep_asking(number: int) -> None:
            with self.peer() as peer:
                count = 0
                while not over():
                    body = b"%d.%d" % (number, count)
                    began = time.perf_counter()
                    assert ask(peer, b"", b"text/plain", body) == [b"", b"text/plain", body]
                    if count:  # the first one has to connect
                        took.append(time.perf_counter() - began)
                    count += 1
                    gevent.sleep(0.001)

        gevent.joinall([gevent.spawn(keep_asking, number) for number in range(CLIENTS)], raise_error=True)
        return took

    @contextlib.contextmanager
    def attacked(self, intruders: Sequence[tuple[str, int, int]]) -> Iterator[list[int]]:
        """Let these come, until the end of the block. What it gives is then how often each group was put out."""
        put_out: list[int] = []
        running = []
        try:
            for kind, count, host in intruders:
                command = [INTRUDERS, kind, self.target.endpoints[SECURED], f"127.0.0.{host}", count, host]
                command += [self.server_key] if kind == "stranger" else []
                running.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, command)],
                        stdout=subprocess.PIPE,
                        env={"PYTHONPATH": str(ROOT)},
                    )
                )
            with gevent.Timeout(PATIENCE, TimeoutError("the intruders do not all get there")):
                for one in running:
                    assert one.stdout.readline() == b"all there\n"
            yield put_out
        finally:
            for one in running:
                one.terminate()
            for one in running:
                rest = one.communicate()[0]
                put_out.append(int(rest or b"-1"))

    def ask_for(self, seconds: float) -> list[float]:
        """Let the clients ask for so long."""
        ends = time.monotonic() + seconds
        return self.ask_until(lambda: time.monotonic() > ends)


def percentile(took: Sequence[float], part: float) -> float:
    """What this part of them is at most, in milliseconds."""
    return sorted(took)[min(len(took) - 1, int(len(took) * part))] * 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it. The exit status: 1 if a request was not answered."""
    parser = argparse.ArgumentParser(prog="siege", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each attack (20)")
    seconds = parser.parse_args(arguments).seconds
    with tempfile.TemporaryDirectory() as directory:
        besieged = Besieged(Path(directory))
        try:
            besieged.ask_for(1)
            quiet = besieged.ask_for(seconds)
            report("quiet", quiet, quiet, "")
            for name, intruders in ATTACKS.items():
                with besieged.attacked(intruders) as put_out:
                    took = besieged.ask_for(seconds)
                report(name, took, quiet, f"; put out {sum(put_out)} times")
            print("refused, as the service counts it:", json.dumps(besieged.target.state()["refusals"][SECURED]))
            print(f"its log: {besieged.target.log.stat().st_size} bytes")
        finally:
            besieged.target.end()
    return 0


def report(name: str, took: Sequence[float], quiet: Sequence[float], rest: str) -> None:
    """A line about how long requests took."""
    middle, high, highest = (percentile(took, part) for part in (0.5, 0.99, 1))
    times = high / percentile(quiet, 0.99)
    print(
        f"{name:10} {len(took):6} requests: p50 {middle:6.2f} ms, p99 {high:7.2f} ms ({times:.1f} x), "
        f"max {highest:7.2f} ms{rest}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
