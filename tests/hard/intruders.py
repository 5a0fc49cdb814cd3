"""Those who have no key, in a process of its own: `intruders.py KIND ENDPOINT ADDRESS COUNT SEED [SERVER_KEY]`.

They come from one address of this machine, so many at once, and come again when they were put out. Three kinds of them:

- `hold` opens connections, and says nothing.
- `fuzz` sends what is no handshake, or no whole one, or one octet of it after the other.
- `stranger` shakes hands as it should be, with keys that nobody knows.

A line is printed when as many as there are have been there, and one at the end, which
SIGTERM asks for: how often they were put out. The process has the lowest priority that there is.
"""

import contextlib
import errno
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from random import Random

import zmq

from tests.hard.garbage import BEFORE_THE_HANDSHAKE, CURVE_HANDSHAKES, Garbage

TURN = 0.05  # seconds from one piece of what is said to the next one
SLOW, SLOW_OCTETS = 0.25, 100  # of the connections of `fuzz`: each octet is a piece of its own
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen when it is known where to
FUZZ: tuple[Garbage, ...] = (*BEFORE_THE_HANDSHAKE, *CURVE_HANDSHAKES)


class Ended(BaseException):
    """It is over."""


class Crowd:
    """So many connections to an endpoint, which are opened again when they were closed.

    `say` makes what each of them says, piece by piece; then it leaves. One without anything to say stays.
    """

    def __init__(self, endpoint: str, address: str, count: int, say: Callable[[], Iterator[bytes]] | None) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._there, self._address, self._count, self._say = (host, int(port)), address, count, say
        self._selector = selectors.DefaultSelector()
        self._all: set[socket.socket] = set()
        self._speeches: dict[socket.socket, Iterator[bytes]] = {}
        self._inside: set[socket.socket] = set()
        self._came = 0
        self.put_out = 0

    def run(self) -> None:
        told, next_turn = False, 0.0
        while True:
            while len(self._all) < self._count and self._come():
                pass
            for key, mask in self._selector.select(TURN):
                self._hear(key.fileobj, mask)  # type: ignore[arg-type]
            if not told and self._came >= self._count:
                told = True
                print("all there", flush=True)
            if time.monotonic() > next_turn:
                next_turn = time.monotonic() + TURN
                for one, speech in list(self._speeches.items()):
                    self._talk(one, speech)

    def _come(self) -> bool:
        one = socket.socket()
        one.setblocking(False)
        try:
            one.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            one.bind((self._address, 0))
            status = one.connect_ex(self._there)
        except OSError as error:
            status = error.errno or errno.EADDRNOTAVAIL
        if status not in (0, errno.EINPROGRESS):  # no port is left, for a moment
            one.close()
            return False
        self._all.add(one)
        self._selector.register(one, selectors.EVENT_READ | selectors.EVENT_WRITE)
        return True

    def _hear(self, one: socket.socket, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                if status := one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(status, os.strerror(status))
                self._selector.modify(one, selectors.EVENT_READ)
                self._came += 1
                self._inside.add(one)
                if self._say is not None:
                    self._speeches[one] = self._say()
            if mask & selectors.EVENT_READ and not one.recv(65536):
                raise ConnectionResetError
        except BlockingIOError:
            pass
        except OSError:
            self.put_out += one in self._inside
            self._leave(one)

    def _talk(self, one: socket.socket, speech: Iterator[bytes]) -> None:
        try:
            one.send(next(speech))
        except BlockingIOError:
            pass
        except (StopIteration, OSError):
            self._leave(one)

    def _leave(self, one: socket.socket) -> None:
        self._selector.unregister(one)
        one.close()
        self._all.discard(one)
        self._inside.discard(one)
        self._speeches.pop(one, None)


def nonsense(random: Random) -> Iterator[bytes]:
    """Something that is no handshake: at once, or slowly."""
    data = random.choice(FUZZ)(random)
    if random.random() > SLOW:
        return iter((data,))
    return (bytes((octet,)) for octet in data[:SLOW_OCTETS])


class Strangers:
    """Peers of pyzmq, with keys that nobody knows."""

    def __init__(self, endpoint: str, address: str, count: int, server_key: str) -> None:
        self._endpoint = endpoint.replace("tcp://", f"tcp://{address}:0;")
        self._count, self._server_key = count, server_key
        self.put_out = 0

    def run(self) -> None:
        context = zmq.Context()
        poller = zmq.Poller()
        strangers = {}
        for _ in range(self._count):
            one = context.socket(zmq.DEALER)
            one.linger = 0
            one.curve_publickey, one.curve_secretkey = zmq.curve_keypair()
            one.curve_serverkey = self._server_key.encode()
            monitor = one.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            poller.register(monitor, zmq.POLLIN)
            strangers[monitor] = one
            one.connect(self._endpoint)
        print("all there", flush=True)
        while True:
            for monitor, _ in poller.poll():
                monitor.recv_multipart()
                self.put_out += 1
                with contextlib.suppress(zmq.ZMQError):  # it goes by itself
                    strangers[monitor].disconnect(self._endpoint)
                strangers[monitor].connect(self._endpoint)


def main() -> None:
    kind, endpoint, address, count, seed, *server_key = sys.argv[1:]
    os.nice(19)
    random = Random(seed)

    def end(*_: object) -> None:
        raise Ended

    signal.signal(signal.SIGTERM, end)
    intruders: Crowd | Strangers
    if kind == "stranger":
        intruders = Strangers(endpoint, address, int(count), *server_key)
    else:
        intruders = Crowd(endpoint, address, int(count), None if kind == "hold" else lambda: nonsense(random))
    try:
        intruders.run()
    except Ended:
        print(intruders.put_out, flush=True)
        os._exit(0)


if __name__ == "__main__":
    main()
