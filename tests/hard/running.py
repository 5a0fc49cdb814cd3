"""The target in a process of its own, what can be seen of it from outside, and good requests to it."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gevent
import zmq
import zmq.green

ROOT = Path(__file__).parent.parent.parent
TARGET = Path(__file__).with_name("target.py")
SOCKETS = ("news", "feed", "rep", "pool", "timed", "router", "dealer", "pull", "sub", "objects", "state")
PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
GOOD_WITHIN = 1.0  # seconds for a good request, whatever has happened
LOOK = 0.02  # seconds for which one look for the answer waits


class RunningTarget:
    """`dploylib run` of the target.

    `options` are socket options for all of its sockets; `security` is how some are secured, by name. At most
    `descriptors` files and connections can be open in it.
    """

    def __init__(
        self,
        directory: Path,
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        stderr: Any = None,
        descriptors: int | None = None,
        security: Mapping[str, Any] | None = None,
    ) -> None:
        self._context = zmq.green.Context()
        self._context.max_sockets = 10_000
        where = directory / "endpoints.json"
        where.unlink(missing_ok=True)
        configuration = directory / "target.yaml"
        sockets = {name: {"uri": "tcp://127.0.0.1:*", "options": dict(options or {})} for name in SOCKETS}
        for name, secured in (security or {}).items():
            sockets[name]["security"] = secured
        configuration.write_text(json.dumps({"servers": {"target": sockets}, "general": {"endpoints": str(where)}}))
        self.log = directory / "target.log"
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(self.log.open("wb")) if stderr is None else stderr
            if descriptors is not None:  # which a process inherits
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, limit[1]))
                stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dploylib", "run", str(TARGET), "-c", str(configuration)],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
            )
        self.pid = self.process.pid
        self.quiet = 0  # the descriptors that are open when nobody is connected, for who notes them
        wait_until(lambda: where.exists() or self.process.poll() is not None)
        assert where.exists(), f"the target did not start:\n{self.log.read_text()}"
        self.endpoints: dict[str, str] = json.loads(where.read_text())

    # Good requests --------------------------------------------------------------------------------------------

    def still_well(self) -> None:
        """A good request of a peer that was not there before is answered within a second, by the same process.

        Time in which the machine had no processor for one of us is not counted, as Linux knows it (schedstat): others
        may use it as well. Nor does it count when this process could not look for the answer. A service that is busy
        by itself, or waits in vain, gets no more than the second.
        """
        with self.peer("req", "rep") as peer:
            looks, before = 0, starved(self.pid, os.getpid())
            peer.send_multipart([b"", b"text/plain", b"pid"])
            answer = None
            while answer is None:
                with gevent.Timeout(LOOK, False):
                    answer = peer.recv_multipart()
                looks += 1
                now = starved(self.pid, os.getpid())
                waited = looks * LOOK - sum(seconds - before.get(thread, 0) for thread, seconds in now.items())
                assert waited < GOOD_WITHIN, f"no answer within {waited:.2f} s\n{self.last_log()}"
                assert self.process.poll() is None, f"the target has ended\n{self.last_log()}"
            assert answer == [b"", b"text/plain", str(self.pid).encode()]

    @contextlib.contextmanager
    def peer(self, socket_type: str, name: str, endpoint: str = "", **options: Any) -> Iterator[Any]:
        """A plain pyzmq socket, connected to a socket of the target, or to what is in between."""
        socket = self._context.socket(getattr(zmq, socket_type.upper()))
        try:
            for option, value in {"linger": 0, **options}.items():
                socket.set(getattr(zmq, option.upper()), value)
            socket.connect(endpoint or self.endpoints[name])
            yield socket
        finally:
            socket.close()

    def ask(self, name: str, body: bytes, mimetype: bytes = b"text/plain") -> list[bytes]:
        """What a REQ gets for an answer."""
        with self.peer("req", name) as peer:
            return ask(peer, b"", mimetype, body)

    def state(self, command: str = "look") -> dict[str, Any]:
        """How things stand in it, after it has obeyed."""
        state: dict[str, Any] = json.loads(self.ask("state", command.encode())[-1])
        return state

    def counts(self, name: str) -> dict[str, int]:
        """What came of the messages of one of its sockets."""
        counts: dict[str, int] = self.state()["counts"][name]
        return counts

    # What Linux knows of it -------------------------------------------------------------------------------------

    def descriptors(self) -> int:
        """How many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """Its memory that is in RAM now, in bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def settled(self) -> int:
        """How many file descriptors it has open once nothing that was closed is left of them."""
        with gevent.Timeout(PATIENCE, TimeoutError("the number of descriptors does not settle")):
            before = -1
            while (now := self.descriptors()) != before:
                before = now
                gevent.sleep(0.15)
        return now

    def last_log(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:]

    # Its end -----------------------------------------------------------------------------------------------------

    def stop(self) -> int:
        """Stop it as an operator does; its exit status."""
        self.process.terminate()
        wait_until(lambda: self.process.poll() is not None)
        return self.process.wait()

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        self._context.destroy(linger=0)


def starved(*pids: int) -> dict[str, float]:
    """Seconds for which each thread of these processes has waited for a processor, as Linux knows it."""
    waited = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended since it was listed
                waited[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return waited


def ask(peer: Any, *frames: bytes) -> list[bytes]:
    """Send a message, and return the one that comes back."""
    peer.send_multipart(frames)
    with gevent.Timeout(PATIENCE, TimeoutError("no message came")):
        answer: list[bytes] = peer.recv_multipart()
        return answer


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    with gevent.Timeout(PATIENCE, TimeoutError("the condition never held")):
        while not condition():
            gevent.sleep(0.005)
