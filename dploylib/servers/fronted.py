"""The worker's end of a front: a process that has the connections of the clients, and gives the workers their messages.

A front binds a ROUTER for each socket that it stands before, and the workers connect a DEALER each. What a client sends
reaches the worker with the frames that a bound ROUTER would have seen, and what the worker sends goes to the client
whose routing id is in the first frame. Where it matters who sent a message, a frame stands in front of all that: a
msgpack list of the id and the address by which ZAP knows the sender.

All of these are one frame between front and worker, a msgpack list, since each frame costs both of them a microsecond.
Only a large body stands behind it as it is, see `pack`.

So the first frame of a message is never empty. With an empty one it is said, from worker to front:

    READY ready     give me messages; a `Ready` in msgpack
    DONE numbers    these are handled; of `rep`, each reply says so itself
    BYE             give me no more
    GONE number     the last word: of what is not answered or done, only messages up to this number were begun

and from front to worker:

    HELLO names     who are you? `1` if a frame with the sender is in front of each message. Messages are numbered from
                    here on, from 1
    BYE             you have had your last message, and all that you had is answered or done

Each connection begins with the empty message of ZMQ_PROBE_ROUTER, to which the front says HELLO: so one that was
started again knows its workers at once.
"""

from __future__ import annotations

import errno
import os
import socket
import uuid
from array import array
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import gevent
import msgspec
import zmq
from gevent.event import Event

from ..errors import SocketClosed, TransientError
from ..transport import MAX_FRAMES, Context, Socket, SocketHandler
from ..transport.guard import RemoteGuard
from ..transport.reading import LARGE, read_message

__all__ = ["BYE", "DONE", "GONE", "HELLO", "READY", "VERSION", "FrontLink", "Ready", "numbers_in", "pack", "unpack"]

VERSION = 1
HELLO, READY, DONE, BYE, GONE = b"HELLO", b"READY", b"DONE", b"BYE", b"GONE"

_DONTWAIT = int(zmq.DONTWAIT)
_BYE_PAUSE = 1.0  # seconds
_RETRY_PAUSE = 0.02  # seconds
_REPLY_PATIENCE = 5000  # milliseconds for which a reply may wait for a front that is gone, or reads nothing


class Ready(msgspec.Struct, frozen=True, array_like=True):
    """Who is ready: a process, a DEALER of it, and how many messages it handles at once."""

    version: int
    pid: int
    instance: str
    concurrency: int


def numbers_in(frame: Any) -> array[int]:
    """The numbers of a DONE. Raises `ValueError` for what is none."""
    numbers = array("Q")
    numbers.frombytes(frame)
    return numbers


def pack(frames: Sequence[Any]) -> list[Any]:
    """What goes between front and worker for a message: for at least one frame, anything with the buffer protocol."""
    last = frames[-1]
    return [_encode(frames)] if len(last) < LARGE else [_encode(frames[:-1]), last]


def unpack(packed: list[Any]) -> list[Any]:
    """The frames of a message that was packed. Raises `msgspec.MsgspecError` for what was not."""
    frames: list[Any] = _decode(packed[0])
    return frames + packed[1:]


_encode = msgspec.msgpack.Encoder(enc_hook=bytes).encode
_decode = msgspec.msgpack.Decoder(Annotated[list[bytes], msgspec.Meta(min_length=1)]).decode


class FrontLink:
    """One socket of a server that is behind a front: its DEALER, and what is to be said over that besides messages.

    Where `tells_done`, it is the handler for the receive loop, and says of each message that it was handled.
    `released` is set when the front has said that nothing more comes, or was never there.
    """

    def __init__(
        self, context: Context, endpoint: str, name: str, uris: list[str], socket_type: str, concurrency: int
    ) -> None:
        self.name = name
        self.uris = uris
        self._endpoint = endpoint
        self.tells_done = socket_type != "rep"
        self._is_unlimited = socket_type != "router"  # which can send as much as it likes
        self.released = Event()
        self.released.set()
        self.socket = socket = context.socket("dealer")
        self._handler: SocketHandler | None = None
        self._ready = Ready(VERSION, os.getpid(), uuid.uuid4().hex, concurrency)
        self._guard: RemoteGuard | None = None
        self._leaving = False
        self._names = False  # a frame with its sender is in front of each message
        self._turn = 0  # how many HELLOs there were
        self._taken = 0  # messages since the last one
        self._done: list[int] = []
        self._unsaid: list[tuple[bytes, ...]] = []
        self._speaks_soon = False
        try:
            socket.name = name
            socket.credentials = None  # the directory of the endpoint is for us alone
            socket._read = self._read
            socket._pack = pack
            socket._most_frames = MAX_FRAMES  # the front has looked
            # Else libzmq takes the next connection for the same, and does not probe.
            socket.set_option("immediate", True)
            socket.set_option("probe_router", 1)
            socket.set_option("rcvhwm", 0)  # the front gives us no more than we want
            socket.set_option("sndtimeo", _REPLY_PATIENCE)
            if self._is_unlimited:
                socket.set_option("sndhwm", 0)
            socket.connect(endpoint)
        except BaseException:
            socket.close(linger=0)
            raise

    def __repr__(self) -> str:
        return f"<FrontLink {self.name}>"

    def know_senders(self, guard: RemoteGuard) -> None:
        """Let this guard say whose the messages are."""
        self._guard = self.socket.guard = guard

    def handled_by(self, handler: SocketHandler, polls: bool = False) -> SocketHandler:
        """What a loop is to call for this handler; a loop that `polls` finds what is said, too."""
        self._handler = handler
        return self if self.tells_done or polls else handler

    def __call__(self, socket: Socket) -> None:
        """Handle the message that can be received, and say that it is done."""
        if not socket.readable():
            return
        assert self._handler is not None
        turn, number = self._turn, self._taken
        try:
            self._handler(socket)
        finally:
            if self.tells_done and turn == self._turn:
                self._done.append(number)
                self._speak_soon()

    def leave(self) -> None:
        """Ask for no more messages. `released` is set when that is so."""
        if not self._leaving:
            self._leaving = True
            if self._turn:
                self._ask_to_leave()

    def _ask_to_leave(self) -> None:
        """Say BYE until it is answered: a front that has just been killed takes one that nobody reads."""
        if not self.released.is_set() and not self.socket.closed:
            self._say(BYE)
            _call_later(self._ask_to_leave, _BYE_PAUSE)

    def close(self) -> None:
        """Say the last word, which is that nothing is begun any more. The server closes the socket."""
        if not self._turn or self.socket.closed:
            return
        begun = self._taken - (self.socket._next is not None)
        self._speak()
        self._say(GONE, b"%d" % begun)
        self._speak()

    def _read(self, zmq_socket: Any, flags: int = _DONTWAIT, large: int = LARGE) -> list[Any]:
        """Read the next message, and hear what the front says in between."""
        while True:
            frames = read_message(zmq_socket, flags, large)
            if frames[0]:
                self._taken += 1
                frames = unpack(frames)
                if self._names:
                    sender = frames.pop(0)
                    if self._guard is not None:
                        self._guard.sender = sender
                return frames
            self._hear(*frames[1:])

    def _hear(self, verb: Any, *words: Any) -> None:
        """Hear what the front says. Must neither wait nor raise."""
        if verb == HELLO:
            self._turn += 1
            self._taken = 0
            self._done.clear()
            self._names = words[:1] == (b"1",)
            self.released.clear()
            if self._leaving:
                self._say(BYE)
            else:
                self._say(READY, msgspec.msgpack.encode(self._ready))
        elif verb == BYE:  # which it also says when it closes
            self.released.set()

    # What is said is sent by the hub: who reads may not send, and who has handled many messages says so at once.

    def _say(self, *words: bytes) -> None:
        self._unsaid.append(words)
        self._speak_soon()

    def _speak_soon(self) -> None:
        if not self._speaks_soon:
            self._speaks_soon = True
            gevent.get_hub().loop.run_callback(self._speak)

    def _speak(self) -> None:
        """Say what there is to say. Never waits."""
        self._speaks_soon = False
        try:
            if self._done:
                self._send(DONE, array("Q", self._done).tobytes())
                self._done = []
            while self._unsaid:
                self._send(*self._unsaid[0])
                del self._unsaid[0]
        except TransientError:
            if self._leaving and (self._is_unlimited or self._is_alone()):  # nobody is there who has anything for us
                self.released.set()
            self._speaks_soon = True
            _call_later(self._speak, _RETRY_PAUSE)
        except SocketClosed:
            self._done, self._unsaid = [], []

    def _is_alone(self) -> bool:
        """Whether no front is there: what cannot be sent may also be more than it reads."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.setblocking(False)
            return peer.connect_ex(self._endpoint.removeprefix("ipc://")) in (errno.ENOENT, errno.ECONNREFUSED)

    def _send(self, *words: bytes) -> None:
        sent = self.socket.send_at_once([b"", *words])
        self.socket.look()
        if not sent:
            raise TransientError("the front is gone, or reads nothing")
        self.socket.sent -= 1  # which is for what users send
        self.socket.bytes_sent -= len(words[-1])


def _call_later(function: Callable[[], None], seconds: float) -> None:
    timer = gevent.get_hub().loop.timer(seconds)

    def call() -> None:
        timer.close()
        function()

    timer.start(call)
