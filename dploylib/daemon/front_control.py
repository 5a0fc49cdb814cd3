"""The life of a front: its owners, what they want, and the lanes that come of that."""

from __future__ import annotations

import array
import contextlib
import json
import logging
import os
import socket as std_socket
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gevent
import msgspec
from gevent import socket
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from ..control.local import Local
from ..control.server import Control, Subject
from ..errors import AddressInUse, EndpointError, SecurityError, TransportError
from ..ipc_lock import IpcLock
from ..transport import Context
from ..transport.spawning import spawn_named
from .deaths import Deaths
from .front_figures import FrontFigures
from .lane import Lane, from_json
from .passing import Passing

__all__ = ["FrontControl"]

log = logging.getLogger(__name__)

_BACKLOG = 8
_CHUNK = 65536
_MOST_DESCRIPTORS = 253  # that the kernel passes at once (SCM_MAX_FD)
_GRACEFUL_TIMEOUT = 30.0

_Key = tuple[str, str]  # of a lane: server and socket


class _Owner:
    """One connection to the control socket: lines of JSON, and descriptors that come with them."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.lanes: set[_Key] = set()
        self._text = b""
        self._descriptors: deque[int] = deque()

    def read(self) -> tuple[dict[str, Any], dict[str, int]] | None:
        """The next request, and the descriptors with it, by uri; None at the end. Raises `OSError`."""
        while b"\n" not in self._text:
            space = std_socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
            data, ancillary, _, _ = self.connection.recvmsg(_CHUNK, space, std_socket.MSG_CMSG_CLOEXEC)
            for level, kind, content in ancillary:
                if level == std_socket.SOL_SOCKET and kind == std_socket.SCM_RIGHTS:
                    received = array.array("i")
                    received.frombytes(content[: len(content) - len(content) % received.itemsize])
                    self._descriptors.extend(received)
            if not data:
                return None
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        request = json.loads(line)
        return request, {uri: self._descriptors.popleft() for uri in request.get("descriptors", ())}

    def write(self, reply: Mapping[str, Any]) -> None:
        """Answer a request."""
        self.connection.sendall(json.dumps(reply).encode() + b"\n")

    def close(self) -> None:
        """Close the connection, and what came over it."""
        self.connection.close()
        for descriptor in self._descriptors:
            os.close(descriptor)


class FrontControl:
    """A front while it runs. See `Front` for the arguments."""

    def __init__(self, control_path: str, patience: float, reopen_logs: Callable[[], None], name: str) -> None:
        self._name = name
        self._reopen_logs = reopen_logs
        self._path = control_path
        self._patience = patience
        self._graceful_timeout = _GRACEFUL_TIMEOUT
        self._owners: set[_Owner] = set()
        self._lanes: dict[_Key, Passing] = {}
        self._closing: dict[_Key, gevent.Greenlet[..., None]] = {}
        self._configuring = BoundedSemaphore(1)
        self._owned = Event()
        self._over = Event()

    def run(self) -> None:
        """Serve until there is no owner any more, and then until what was begun is done. Raises `AddressInUse`."""
        gevent.reinit()  # this is the child of a process that may have had a hub
        with contextlib.ExitStack() as stack:
            listener = self._listen(stack)
            self._context = stack.enter_context(Context.new())
            if self._name:
                stack.enter_context(self._control())
            self._deaths = Deaths()
            stack.callback(self._deaths.close)
            accepting = spawn_named("accept owners", self._accept, listener)
            stack.callback(accepting.kill)
            if self._owned.wait(self._patience):
                self._over.wait()
            else:
                log.error("the front ends: nobody has wanted it for %g s", self._patience)
            accepting.kill()
            listener.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)  # from now on it is of no use to anybody
            gevent.joinall([self._close(key) for key in list(self._lanes)] + list(self._closing.values()))

    def _control(self) -> Control:
        """The control server of this process, which tells the service nothing."""
        local = Local(FrontFigures(self._lanes), self._name, "front")
        return Control(Subject(local), os.path.dirname(self._path))

    def _listen(self, stack: contextlib.ExitStack) -> Any:
        path = self._path
        try:
            lock = IpcLock(path)
        except BlockingIOError as error:
            raise AddressInUse(f"another front is at {path}") from error
        except OSError as error:
            raise EndpointError(f"cannot make the control socket {path}: {error.strerror}") from error
        stack.callback(lock.release)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # of a front that was killed
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        before = os.umask(0o177)
        try:
            listener.bind(path)
        except OSError as error:  # a path that is too long, say
            raise EndpointError(f"cannot make the control socket {path}: {error}") from error
        finally:
            os.umask(before)
        lock.bound()
        listener.listen(_BACKLOG)
        return listener

    # Owners ----------------------------------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError as error:  # no descriptors are left, say
                log.warning("the front cannot accept an owner: %s", error)
                gevent.sleep(1)
                continue
            owner = _Owner(connection)
            self._owners.add(owner)
            self._owned.set()
            spawn_named("listen to an owner", self._serve, owner)

    def _serve(self, owner: _Owner) -> None:
        """Do what an owner wants, until it goes."""
        try:
            while (read := owner.read()) is not None:
                request, descriptors = read
                if request["do"] == "release":
                    self._owners.discard(owner)
                    if not self._owners:  # who says so may end the workers next
                        for passing in self._lanes.values():
                            passing.begin_to_close()
                    owner.write({"goes_on": bool(self._owners)})
                    return
                try:
                    owner.write(self._do(owner, request, descriptors))
                finally:
                    for descriptor in descriptors.values():
                        os.close(descriptor)
        except OSError as error:
            log.info("the front has lost an owner: %s", error)
        except Exception:
            log.exception("the front does not understand an owner, and takes it for gone")
        finally:
            owner.close()
            self._owners.discard(owner)
            if self._owners:
                self._close_unwanted()
            else:
                self._over.set()

    def _do(self, owner: _Owner, request: dict[str, Any], descriptors: dict[str, int]) -> dict[str, Any]:
        if request["do"] == "status":
            return {
                "pid": os.getpid(),
                "owners": len(self._owners),
                "lanes": {passing.lane.name: passing.status() for passing in self._lanes.values()},
            }
        if request["do"] == "configure":
            try:
                lanes = [from_json(said) for said in request["lanes"]]
            except (msgspec.ValidationError, SecurityError) as error:
                return {"errors": [str(error)]}
            with self._configuring:
                return {"errors": self._configure(owner, lanes, descriptors, request["graceful_timeout"])}
        if request["do"] == "reopen_logs":
            self._reopen_logs()
            return {}
        raise ValueError(f"an owner wants what there is not: {request['do']!r}")

    # Lanes -----------------------------------------------------------------------------------------------------

    def _configure(
        self, owner: _Owner, lanes: list[Lane], descriptors: dict[str, int], graceful_timeout: float
    ) -> list[str]:
        self._graceful_timeout = graceful_timeout
        errors = []
        for lane in lanes:
            key = (lane.server, lane.socket)
            passing = self._lanes.get(key)
            if passing is None:
                if key in self._closing:
                    self._closing[key].join()
                try:
                    self._lanes[key] = Passing(lane, self._context, self._deaths, descriptors)
                except (TransportError, SecurityError) as error:
                    errors.append(f"{lane.name}: {error}")
            elif flaw := passing.flaw_of(lane):
                errors.append(flaw)
            else:
                errors += passing.become(lane, descriptors, graceful_timeout)
        owner.lanes = {(lane.server, lane.socket) for lane in lanes}
        self._close_unwanted()
        return errors

    def _close_unwanted(self) -> None:
        wanted = set().union(*(owner.lanes for owner in self._owners))
        for key in [key for key in self._lanes if key not in wanted]:
            self._lanes[key].leave_endpoints()
            self._close(key)

    def _close(self, key: _Key) -> gevent.Greenlet[..., None]:
        passing = self._lanes.pop(key)
        passing.begin_to_close()
        closing = spawn_named(f"close {passing.lane.name}", passing.close, self._graceful_timeout)
        self._closing[key] = closing
        closing.link(partial(self._closed, key))
        return closing

    def _closed(self, key: _Key, closing: Any) -> None:
        if self._closing.get(key) is closing:
            del self._closing[key]
