"""`servers.offload`: work in threads, while the hub goes on."""

import contextvars
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

import dploylib
from dploylib.servers import Server, bind_in, offload

PATIENCE = 10.0  # seconds
allocate_lock = get_original("_thread", "allocate_lock")


class Gate:
    """A gate that blocks the thread that waits at it, patched or not. `waiting` says how many do."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self.waiting = 0

    def wait(self, result: Any = None) -> Any:
        self.waiting += 1
        assert self._lock.acquire(timeout=60)
        self._lock.release()
        self.waiting -= 1
        return result

    def open(self) -> None:
        self._lock.release()


@pytest.fixture
def gate(wait_until: Callable[..., None]) -> Iterator[Gate]:
    """A gate that nobody waits at any more when the test is over."""
    gate = Gate()
    yield gate
    if gate._lock.locked():
        gate.open()
    wait_until(lambda: gate.waiting == 0)


def test_other_handlers_answer_while_a_handler_waits_for_its_thread(serve, peer, gate, wait_until):
    class Tested(Server):
        @bind_in("slow", "rep")
        def slow(self, socket, received):
            return offload(gate.wait, "through")

        @bind_in("quick", "rep")
        def quick(self, socket, received):
            return received.text

    server = serve(Tested)
    slow, quick = (peer("req", server.endpoints[name][0]) for name in ("slow", "quick"))
    asking = gevent.spawn(slow.ask_text, "go")
    wait_until(lambda: gate.waiting == 1)
    assert [quick.ask_text(str(number)) for number in range(50)] == [str(number) for number in range(50)]
    assert gate.waiting == 1
    gate.open()
    assert asking.get(timeout=PATIENCE) == "through"


def test_it_runs_in_another_thread_and_returns_what_the_function_returns():
    get_ident = get_original("_thread", "get_ident")
    assert offload(get_ident) != get_ident()
    assert offload(divmod, 7, 2) == (3, 1)
    assert offload(sorted, [2, 1, 3], reverse=True) == [3, 2, 1]
    assert dploylib.offload is offload


@pytest.mark.parametrize("kind", [ValueError, StopIteration, SystemExit, gevent.GreenletExit])
def test_it_raises_what_the_function_raises_and_nothing_is_printed(kind, capfd):
    def fail() -> None:
        raise kind("what went wrong")

    with pytest.raises(kind) as caught:
        offload(fail)
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)][-2:] == ["_outcome", "fail"]
    assert capfd.readouterr() == ("", "")


def test_the_function_sees_the_context_variables_of_its_caller_and_changes_a_copy():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the caller")

    def see_and_change() -> str:
        seen = variable.get()
        variable.set("of the thread")
        return seen

    assert offload(see_and_change) == "of the caller"
    assert variable.get() == "of the caller"
    assert offload(variable.get) == "of the caller"


def test_the_timeout_of_a_handler_answers_while_its_thread_goes_on_to_the_end(serve, peer, gate, caplog, wait_until):
    ended = []

    class Tested(Server):
        @bind_in("request", "rep", timeout=0.05)
        def request(self, socket, received):
            return "quick" if received.text == "quick" else offload(self.work)

        def work(self):
            gate.wait()
            ended.append(True)
            raise ValueError("nobody waits for this")

    server = serve(Tested)
    caller = peer("req", server.endpoints["request"][0])
    assert caller.ask_problem(b"", b"text/plain", b"slow")["type"] == "urn:dploylib:handler-timeout"
    wait_until(lambda: gate.waiting == 1)  # the thread may begin later than its time was up
    gate.open()
    wait_until(lambda: ended)
    assert caller.ask_text("quick") == "quick"
    assert server.counts["request"].failed == 0
    assert "nobody waits for this" not in caplog.text


def test_what_finds_all_threads_busy_waits_for_one_and_holds_nobody_up(gate, wait_until):
    size = gevent.get_hub().threadpool.maxsize
    callers = [gevent.spawn(offload, gate.wait, number) for number in range(3 * size)]
    wait_until(lambda: gate.waiting == size)
    assert not any(caller.dead for caller in callers)
    gate.open()
    assert [caller.get(timeout=PATIENCE) for caller in callers] == list(range(3 * size))
