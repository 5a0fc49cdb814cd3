"""Servers in threads of their own."""

from __future__ import annotations

from typing import Any

import gevent
from gevent.event import Event

from ..transport import Context
from ..transport.spawning import new_lock, start_thread
from .blocking import watch_for_blocking
from .coordinator import ServerCoordinator, ServerRun

__all__ = ["ThreadedServerCoordinator"]

_CLOSING_LINGER = 0.5  # seconds; libzmq aborts when it closes with none in the middle of a message (session_base.cpp)
_CLOSING_TIME = 1.0  # seconds to wait for a context that a thread which was left behind may still use


class ThreadedServerCoordinator(ServerCoordinator):
    """Runs each server in a thread with a hub of its own: one that blocks holds up only itself.

    The threads share the ZeroMQ context, so that inproc endpoints work between servers; and the interpreter, which runs
    Python code of one thread at a time. Hooks, and whatever else several servers use, have to be safe for threads. A
    thread that blocks for ever cannot be ended: it is left behind, with a line in the log.
    """

    def __init__(self, control_uri: str | None = None, context: Context | None = None) -> None:
        super().__init__(control_uri, context)
        self._threads: dict[ServerRun, _ServerThread] = {}

    def spawn(self, run: ServerRun) -> None:
        """Run the server in a thread."""
        self._threads[run] = _ServerThread(run, self.context.for_thread(), self.server_ended, self._gone)

    def kill(self, run: ServerRun) -> None:
        """Kill the server's greenlet, in its own thread."""
        self._threads[run].kill()

    def abandon(self, run: ServerRun) -> None:
        """Leave the thread behind, without its sockets, if it lets its hub run at all."""
        self._threads[run].close_sockets()
        super().abandon(run)

    def hubs_have_run(self) -> bool:
        """Whether the hubs of all threads have run since this was called last."""
        return all(thread.hub_has_run() for thread in self._threads.values())

    def _gone(self, run: ServerRun) -> None:
        self._threads.pop(run).gone.set()

    def _close_context(self, context: Context) -> None:
        # An interpreter that ends while a thread destroys its hub may crash.
        gevent.wait([thread.gone for thread in self._threads.values()], timeout=_CLOSING_TIME)
        if self._threads:  # those that were left behind
            gevent.with_timeout(_CLOSING_TIME, context.close, timeout_value=None)
        else:
            context.close()


class _ServerThread:
    """A thread in which a server runs.

    In the hub of the thread that made it, `ended(run, error)` is called when the server has ended, and `gone(run)` when
    the thread has no more to do, which may be later: there may be greenlets in it that nobody could end.
    """

    def __init__(self, run: ServerRun, context: Context, ended: Any, gone: Any) -> None:
        self.gone = Event()
        self._run = run
        self._context = context
        self._tell_ended = ended
        self._tell_gone = gone
        self._home: Any = gevent.get_hub()
        self._hub: Any = None  # of the thread, while others may ask it for something
        self._killed = False
        self._has_run = True
        self._lock = new_lock()
        start_thread(self._main)

    def kill(self) -> None:
        """End the server. Called in the thread that made this."""
        with self._lock:
            self._killed = True
        self._call(self._run.end_at_once)

    def close_sockets(self) -> None:
        """Close the sockets of the server. Called in the thread that made this."""
        self._call(self._context.close, _CLOSING_LINGER)

    def hub_has_run(self) -> bool:
        """Whether the hub of the thread has run since this was called last, if it is there. Called as the others."""
        has_run = self._has_run or self._hub is None
        if has_run:
            self._has_run = False
            self._call(self._note_run)
        return has_run

    def _note_run(self) -> None:
        self._has_run = True

    def _call(self, function: Any, *args: Any) -> None:
        """Call a function in the hub of the thread, if that still is there."""
        with self._lock:
            if self._hub is not None:
                self._hub.loop.run_callback_threadsafe(function, *args)

    def _main(self) -> None:
        hub: Any = gevent.get_hub()
        error: BaseException | None = gevent.GreenletExit()
        try:
            greenlet = self._run.greenlet(self._context)
            with self._lock:
                killed, self._hub = self._killed, hub
            if not killed:
                greenlet.start()
                with watch_for_blocking(self._run.max_blocking):
                    greenlet.join()
                error = self._run.outcome()
        except BaseException as failure:  # noqa: BLE001 - the coordinator is told
            error = failure
        finally:
            self._home.loop.run_callback_threadsafe(self._tell_ended, self._run, error)
            self._context.close(_CLOSING_LINGER)  # if there is something left of it
            hub.join()
            with self._lock:
                self._hub = None
            hub.destroy(destroy_loop=True)
            self._home.loop.run_callback_threadsafe(self._tell_gone, self._run)
