"""Start the echo service in a process of its own, talk to it, show what goes over the wire, and stop it.

    python examples/echo/wire.py

Each frame of each message is printed, so that one sees what a peer without dploylib has to send.
"""

import json
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import zmq

from dploylib.transport import Context, Problem, Socket

ECHO = Path(__file__).parent
ROOT = ECHO.parent.parent
PATIENCE = 30  # seconds for everything
COMMAND = [
    *(sys.executable, "-m", "dploylib", "run", str(ECHO / "service.py"), "-c", str(ECHO / "config.yaml")),
    *("--set", "servers.echo.request.uri=tcp://127.0.0.1:*"),  # any port that is free
    *("--log-format", "json"),
]
PARTS = ("id", "mimetype", "body")


class ShowingSocket(Socket):
    """A socket that prints the frames of every message that it sends and receives."""

    def send_frames(self, frames, timeout=None):
        super().send_frames(frames, timeout)
        show("client -> service", frames)

    def receive_frames(self, timeout=None, copy=True):
        frames = super().receive_frames(timeout, copy)
        show("service -> client", frames)
        return frames


def show(direction, frames):
    names = PARTS if len(frames) == len(PARTS) else [""] * len(frames)
    for number, (name, frame) in enumerate(zip(names, frames, strict=True), 1):
        print(f"  {direction if number == 1 else '':17}  frame {number}  {name:8}  {frame.decode()!r}")


def endpoint_of(process):
    """Read what the service logs until it says where it is. Then it is ready."""
    for line in process.stderr:
        print(f"  {line}", end="")
        _, found, endpoint = json.loads(line)["message"].partition("echo.request is at ")
        if found:
            return endpoint
    sys.exit(f"the service ended before it was ready, with status {process.wait()}")


def converse(socket):
    """Send four messages, and check what comes back."""
    print("\nA text comes back as it was sent. (The REQ socket puts an empty frame in front, which the REP takes off.)")
    socket.send_text("hello", timeout=PATIENCE)
    expect(socket.receive_text(timeout=PATIENCE), "hello")

    print("\nSo does JSON, with an id.")
    socket.send_json({"greeting": "hello", "to": ["you", "me"]}, id="42", timeout=PATIENCE)
    expect(socket.receive_json(timeout=PATIENCE), {"greeting": "hello", "to": ["you", "me"]})

    print("\nA request that is no envelope is answered by a problem (RFC 9457), not by silence.")
    socket.send_frames([b"no envelope"], timeout=PATIENCE)
    problem = Problem.from_envelope(socket.receive_envelope(timeout=PATIENCE))
    expect(problem and (problem.type, problem.status), ("urn:dploylib:malformed-envelope", 400))

    print("\nThe service goes on.")
    socket.send_text("hello again", timeout=PATIENCE)
    expect(socket.receive_text(timeout=PATIENCE), "hello again")


def expect(got, expected):
    if got != expected:
        sys.exit(f"expected {expected!r}, got {got!r}")


def main():
    print("$ python", shlex.join(argument.replace(f"{ROOT}/", "") for argument in COMMAND[1:]))
    with subprocess.Popen(COMMAND, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            endpoint = endpoint_of(process)
            with Context.new() as context, ShowingSocket(context.zmq_context.socket(zmq.REQ), context) as socket:
                socket.connect(endpoint)
                converse(socket)
            print(f"\n$ kill -TERM {process.pid}")
            process.send_signal(signal.SIGTERM)
            for line in process.stderr:
                print(f"  {line}", end="")
            expect(process.wait(), 0)
        finally:
            watchdog.cancel()
            process.kill()  # does nothing to one that has ended
    print("The service has stopped, and all was as expected.")


if __name__ == "__main__":
    main()
