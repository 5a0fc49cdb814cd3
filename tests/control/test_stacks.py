"""Where the greenlets of a service stand, seen from any thread."""

import contextlib
import gc
import re

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from dploylib.control.stacks import stacks
from dploylib.servers import Hook, Server, bind_in, every
from dploylib.services import Service, ThreadedServerCoordinator
from dploylib.testing import running

SLEEP = get_original("time", "sleep")
ANYWHERE = {"uri": "tcp://127.0.0.1:*"}
CONFIGURATION = {"servers": {name: {"request": ANYWHERE} for name in ("echo", "other")}}
SEVERAL = 50


@pytest.fixture(autouse=True)
def _all_known():
    """What was there before this module is to be found, too: see `_quick_leak_checks`."""
    gc.unfreeze()


class Waiting(Server):
    """Its handlers wait until they are `released`, or block while it `blocks`."""

    released: Event
    blocks = False

    @bind_in("request", "router", concurrency=100)
    def answer(self, socket, received):
        if received.text == "spawn":
            self.helper()
        elif received.text == "block":
            while self.blocks:
                SLEEP(0.001)  # blocks the hub, patched or not
        else:
            self.released.wait()

    def helper(self):
        gevent.spawn(self.released.wait).join()

    @every(1000)
    def tick(self):
        self.released.wait()


class Observer(Hook):
    def message_handled(self, server, socket, received, seconds):
        """Makes the service note when a message began."""


@pytest.fixture
def start():
    """Start a service of two servers, whose handlers are released when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(coordinator=None, hooks=()):
            service = Service(coordinator=coordinator, hooks=hooks)
            classes = {name: type("Waiting", (Waiting,), {"released": Event()}) for name in CONFIGURATION["servers"]}
            for name, cls in classes.items():
                service.add_server(name, cls)
            stack.enter_context(running(service, CONFIGURATION))
            for cls in classes.values():
                stack.callback(cls.released.set)
            return service

        yield start


@pytest.fixture
def send(wait_until):
    """Send a message to a server many times, and wait until its handlers have begun."""
    sockets = []

    def send(service, text, times=1, name="echo"):
        socket = service.context.socket("dealer")
        sockets.append(socket)
        socket.connect(service.endpoints[name]["request"])
        counts = service.servers[name].counts["request"]
        expected = counts.received + times
        for _ in range(times):
            socket.send_frames([b"", b"", b"text/plain", text.encode()])
        wait_until(lambda: counts.received == expected)
        return socket

    yield send
    for socket in sockets:
        socket.close(linger=0)


def seen(service):
    """The stacks, seen from a thread of its own, by the server they are under."""
    text = gevent.get_hub().threadpool.apply(stacks, (service.servers.values(),))
    return parted(text)


def parted(text):
    lines, headline = text.splitlines(), ""
    found = {}
    for number, line in enumerate(lines):
        if number + 1 < len(lines) and lines[number + 1] == "=" * len(line) and line:
            headline = line
        found.setdefault(headline, []).append(line)
    return {headline: "\n".join(lines) for headline, lines in found.items()}


def test_equal_stacks_are_told_once_by_server_and_socket(start, send):
    service = start()
    send(service, "wait", SEVERAL)
    send(service, "spawn", 2)
    found = seen(service)
    assert list(found) == ["server echo", "server other", "others"]
    assert f"\n{SEVERAL} x greenlet 'receive echo.request', with messages that are " in found["server echo"]
    assert "\n2 x greenlet 'receive echo.request', with messages that are " in found["server echo"]
    assert "    self.released.wait()" in found["server echo"]
    assert "    gevent.spawn(self.released.wait).join()" in found["server echo"]
    assert len(found["server echo"].splitlines()) < 100
    assert "greenlet 'receive other.request' is at" in found["server other"]


def test_what_a_handler_has_spawned_is_with_its_server(start, send):
    service = start()
    send(service, "spawn", 2)
    found = seen(service)
    assert "\n2 x a greenlet that 'receive echo.request' has spawned are at\n" in found["server echo"]
    assert "has spawned" not in found["server other"]


def test_what_runs_in_the_background_is_with_its_server(start, wait_until):
    service = start()
    for name in ("echo", "other"):
        wait_until(lambda name=name: f"greenlet '{name}: Waiting.tick' is at" in seen(service)[f"server {name}"])


def test_what_waits_besides_the_servers_is_told_last(start, spawn):
    service = start()
    over = Event()
    spawn(over.wait).name = "somebody"
    gevent.sleep(0)
    others = seen(service)["others"]
    assert "greenlet 'somebody' is at\n  code in C\n" in others
    assert "the main greenlet is at" in others
    over.set()


def test_the_age_of_messages_is_told(start, send):
    service = start()
    send(service, "wait", 2)
    send(service, "spawn")
    echo = seen(service)["server echo"]
    assert re.search(
        r"\n2 x greenlet 'receive echo.request', with messages that are [\d.]+ to [\d.]+ s old, are at\n", echo
    )
    assert re.search(r"\ngreenlet 'receive echo.request', with a message that is [\d.]+ s old, is at\n", echo)


def test_a_hub_that_is_blocked_is_seen_from_another_thread(start, send):
    service = start()
    service.servers["echo"].__class__.blocks = True
    send(service, "wait", SEVERAL)
    found = []

    def look():
        try:
            while not any("SLEEP(0.001)" in text for text in found):
                found.append(stacks(service.servers.values()))
        finally:
            service.servers["echo"].__class__.blocks = False

    looking = gevent.get_hub().threadpool.spawn(look)
    send(service, "block")  # this greenlet goes on when the handler has ended
    looking.get()
    echo = parted(found[-1])["server echo"]
    thread = get_original("_thread", "get_ident")()
    assert f"thread {thread:#x}, in greenlet 'receive echo.request', " in echo
    assert f"{SEVERAL} x greenlet 'receive echo.request', with messages that are " in echo


def test_servers_in_threads_are_seen(start, send):
    service = start(ThreadedServerCoordinator())
    send(service, "wait", 3)
    send(service, "wait", 2, "other")
    found = parted(stacks(service.servers.values()))
    assert "3 x greenlet 'receive echo.request', with messages that are " in found["server echo"]
    assert "2 x greenlet 'receive other.request', with messages that are " in found["server other"]


def test_without_servers_there_are_no_headlines():
    text = gevent.get_hub().threadpool.apply(stacks)
    assert "in test_without_servers_there_are_no_headlines\n" in text
    assert "====" not in text


def test_the_frames_outside_are_left_out():
    text = gevent.get_hub().threadpool.apply(stacks, ((), ("_pytest", "pluggy")))
    assert "the main greenlet is at\n  File" in text
    assert "/_pytest/" not in text[text.index("the main greenlet") :]
