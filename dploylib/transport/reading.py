"""Reading one multipart message, as cheaply as pyzmq lets us.

What costs is not to receive a frame (150 ns) but to ask whether another one follows: 900 ns, since pyzmq looks the
option RCVMORE up in an enum. A `zmq.Frame` knows it for 400 ns, and two socket types tell it for nothing.

A message that was begun is read to its end with nothing in between, see `waiting`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import zmq
from zmq.backend import Socket as _CSocket

from .envelope import MAX_FRAMES

__all__ = [
    "CONFIRMATION",
    "LARGE",
    "ROUTING_TYPES",
    "TURN_TYPES",
    "Read",
    "is_confirmation",
    "knowing_reader_for",
    "reader_for",
]

Read = Callable[..., list[Any]]
"""Reads a message from a socket of pyzmq, without waiting: raises `zmq.Again` when there is none.

With 0 as its second argument it waits for the message as libzmq does.

The frames are bytes, but for a last one of at least `large` bytes (`LARGE`, unless given), which is a `zmq.Frame`. Of
too many frames it returns only as many as show that.
"""

LARGE = 65536
"""Bytes from which on a body is not copied before somebody asks for it: pyzmq's own COPY_THRESHOLD."""

ROUTING_TYPES = ("router", "stream")
"""Socket types whose messages begin with the routing id of a peer, where they are received and where they are sent."""

TURN_TYPES = ("rep", "req")
"""Socket types that receive and send in turn."""

CONFIRMATION = b"DPL1/subscribed/"
"""How the id of an envelope begins that a publisher confirms subscriptions with, see `publishing`."""

# Below zmq.green and pyzmq's Python layer.
_receive: Callable[..., Any] = _CSocket.recv

_DONTWAIT = int(zmq.DONTWAIT)
_EFSM = int(zmq.EFSM)
_MOST = range(MAX_FRAMES + 1)


def read_message(zmq_socket: Any, flags: int = _DONTWAIT, large: int = LARGE) -> list[Any]:
    """Read a message of any socket type."""
    return _with_rest(zmq_socket, [], _receive(zmq_socket, flags, False), large)


def read_routed(zmq_socket: Any, flags: int = _DONTWAIT, large: int = LARGE) -> list[Any]:
    """Read a message of a ROUTER or STREAM: behind the routing id there is always a frame (zmq_socket(3))."""
    routing_id = _receive(zmq_socket, flags)
    return _with_rest(zmq_socket, [routing_id], _receive(zmq_socket, _DONTWAIT, False), large)


def read_in_turn(zmq_socket: Any, flags: int = _DONTWAIT, large: int = LARGE) -> list[Any]:
    """Read a message of a REP or REQ: it is their turn to send then, so that they refuse to read beyond its end."""
    frames = [_receive(zmq_socket, flags)]
    try:
        frames.append(_receive(zmq_socket, _DONTWAIT))
        frame = _receive(zmq_socket, _DONTWAIT, False)  # the third of an envelope, which is mostly the last
    except zmq.ZMQError as error:
        if error.errno != _EFSM:
            raise
        return frames
    return _with_rest(zmq_socket, frames, frame, large)


def read_published(zmq_socket: Any, flags: int = _DONTWAIT, large: int = LARGE) -> list[Any]:
    """Read a message of a SUB, leaving out what only confirms somebody's subscriptions."""
    while True:
        frames = read_message(zmq_socket, flags, large)
        if not is_confirmation(frames):  # 100 ns
            return frames


def is_confirmation(frames: list[Any]) -> bool:
    """Whether a message only confirms the subscriptions of somebody."""
    return type(frames[0]) is bytes and frames[0].startswith(CONFIRMATION)


def reader_for(socket_type: str) -> Read:
    """The cheapest way to read from a socket of this type."""
    if socket_type in TURN_TYPES:
        return read_in_turn
    if socket_type == "sub":
        return read_published
    return read_routed if socket_type in ROUTING_TYPES else read_message


def knowing_reader_for(socket_type: str) -> Read:
    """The same, where it has to be known who sent a message: the last frame is always a `zmq.Frame`, which tells."""
    return partial(reader_for(socket_type), large=0)


def _with_rest(zmq_socket: Any, frames: list[Any], frame: Any, large: int) -> list[Any]:
    """These frames, this one that was read behind them, and those that follow it."""
    for _ in _MOST:
        if not frame.more:
            frames.append(frame.bytes if len(frame) < large else frame)
            return frames
        frames.append(frame.bytes if len(frame) else b"")  # delimiters, and mostly the id: to copy costs 200 ns
        frame = _receive(zmq_socket, _DONTWAIT, False)
    while frame.more:
        frame = _receive(zmq_socket, _DONTWAIT, False)
    return frames
