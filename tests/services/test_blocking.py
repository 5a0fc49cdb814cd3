"""What blocks the hub is named in the log."""

import linecache
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent._monitor import PeriodicMonitoringThread
from gevent.monkey import get_original

from dploylib.servers import Handler, Server, bind_in, every, offload
from dploylib.services import watch_for_blocking
from dploylib.services.blocking import _Watch

PATIENCE = 20.0  # seconds
SECONDS = 0.05  # that are too long
SLEEP = get_original("time", "sleep")
allocate_lock = get_original("_thread", "allocate_lock")


class Reports(logging.Handler):
    """What is reported. Code that blocks does so while it `lacks` a report of itself.

    There may be others before it: on a loaded machine, everything may take too long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.came = allocate_lock()  # acquiring it blocks the thread until there is another report, patched or not
        self.came.acquire()
        self._patience_ends = time.monotonic() + PATIENCE

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if self.came.locked():
            self.came.release()

    def of(self, who: str, level: int = logging.ERROR) -> list[logging.LogRecord]:
        """The reports about somebody."""
        return [one for one in self.records if one.levelno == level and one.getMessage().startswith(f"{who} ")]

    def lacks(self, who: str, count: int = 1) -> bool:
        return len(self.of(who)) < count and time.monotonic() < self._patience_ends


def block(reports: Reports, who: str, count: int = 1) -> None:
    """Block until it is reported."""
    while reports.lacks(who, count):
        reports.came.acquire(timeout=1)


@pytest.fixture
def reports() -> Iterator[Reports]:
    """What is reported during the test."""
    reports = Reports()
    log = logging.getLogger("dploylib.services.blocking")
    log.addHandler(reports)
    yield reports
    log.removeHandler(reports)


@pytest.fixture
def watched(reports: Reports) -> Iterator[Any]:
    """The hub, which is watched."""
    with watch_for_blocking(SECONDS):
        yield gevent.get_hub()


class Blocking(Handler):
    socket_type = "rep"

    def __call__(self, server: Any, socket: Any, received: Any) -> str:
        while server.reports.lacks("server.by_class: the handler Blocking"):
            server.reports.came.acquire(timeout=1)
        return "done"


class Blocked(Server):
    reports: Reports
    by_class = Blocking.bind("by_class")

    @bind_in("alone", "rep")
    def alone(self, socket: Any, received: Any) -> str:
        while self.reports.lacks("server.alone: the handler Blocked.alone"):
            self.reports.came.acquire(timeout=1)
        return "done"

    @bind_in("among", "router", concurrency=2)
    def among_others(self, socket: Any, received: Any) -> str:
        while self.reports.lacks("server.among: the handler Blocked.among_others"):
            self.reports.came.acquire(timeout=1)
        return "done"


def test_a_failure_to_find_out_does_not_end_the_watch(watched, reports, monkeypatch):
    def fail(*_: Any) -> None:
        monkeypatch.undo()
        raise RuntimeError("the greenlets have changed meanwhile")

    monkeypatch.setattr("dploylib.services.blocking._owner", fail)
    block(reports, "a hub is blocked, or was; by what, cannot be found")
    block(reports, "the main greenlet")
    assert reports.of("the main greenlet")


class Held(Server):
    @bind_in("request", "rep")
    def request(self, socket: Any, received: Any) -> str:
        """Blocks the hub until there is a file of this name."""
        while not os.path.exists(received.text):
            SLEEP(0.01)
        return "done"


@pytest.mark.own_hub("a hub that is blocked cannot ask")
@pytest.mark.one_process("serve refuses processes")
def test_it_is_known_whether_the_hubs_of_servers_have_run(start, ask, wait_until, tmp_path):
    service = start(held=Held, other=Held)
    have_run = service.coordinator.hubs_have_run
    for _ in range(3):
        wait_until(have_run)
    asking = gevent.spawn(ask, service.endpoints["held"]["request"], str(tmp_path / "go"))
    gevent.sleep(0.1)
    wait_until(lambda: not any(have_run() or gevent.sleep(0.01) for _ in range(20)))
    assert not asking.ready()
    (tmp_path / "go").touch()
    wait_until(have_run)
    wait_until(have_run)
    assert asking.get(timeout=PATIENCE) == "done"


@pytest.mark.greenlet_only("what blocks and what reports it are in this process and thread")
@pytest.mark.parametrize(
    ("socket", "handler"),
    [("alone", "Blocked.alone"), ("among", "Blocked.among_others"), ("by_class", "Blocking")],
)
def test_a_handler_that_blocks_is_named_with_its_server_socket_and_place(
    start, ask, watched, reports, wait_until, socket, handler
):
    Blocked.reports = reports
    service = start(server=Blocked)
    assert ask(service.endpoints["server"][socket]) == "done"
    who = f"server.{socket}: the handler {handler}"
    wait_until(lambda: reports.of(who, logging.WARNING))
    reported = reports.of(who)[0]
    function = "__call__" if handler == "Blocking" else handler.removeprefix("Blocked.")
    assert re.fullmatch(
        rf"{re.escape(who)} has blocked the hub for \d+\.\d s, at {re.escape(__file__)}:{reported.lineno} "
        rf"in {function}; no other greenlet of this hub runs meanwhile: see servers\.offload",
        reported.getMessage(),
    )
    line = linecache.getline(reported.pathname, reported.lineno).strip()
    assert line.endswith("reports.came.acquire(timeout=1)")
    assert reported.stack_info.startswith("Stack (most recent call last):\n")
    assert reported.stack_info.endswith(line)
    [over] = reports.of(who, logging.WARNING)
    assert re.search(r" blocks the hub no more, after \d+\.\d s$", over.getMessage())


class Station(Server):
    reports: Reports

    def setup(self) -> None:
        if self.settings.get("how") == "spawn":
            self.spawn(self.calibrate)

    def calibrate(self) -> None:
        block(self.reports, "the greenlet 'station: Station.calibrate'")

    @every(0.01)
    def measure(self) -> None:
        if self.settings.get("how") == "every":
            block(self.reports, "the greenlet 'station: Station.measure'")


@pytest.mark.greenlet_only("what blocks and what reports it are in this process and thread")
@pytest.mark.parametrize(("how", "name"), [("spawn", "Station.calibrate"), ("every", "Station.measure")])
def test_background_work_of_a_server_is_named(make_service, watched, reports, wait_until, how, name):
    Station.reports = reports
    service = make_service(station=Station)
    service.start(config_dict={"servers": {"station": {}}, "general": {"how": how}})
    wait_until(lambda: reports.of(f"the greenlet 'station: {name}'"))


def named(name: str, function: Callable[..., Any], *args: Any) -> gevent.Greenlet:
    greenlet = gevent.Greenlet(function, *args)
    greenlet.name = name
    greenlet.start()
    return greenlet


def test_a_greenlet_of_the_program_is_named(watched, reports):
    before = gevent.Greenlet(block)  # which has not begun, as the other one
    blocking = named("the one that blocks", block, reports, "the greenlet 'the one that blocks'")
    after = gevent.Greenlet(block)
    blocking.join()
    assert reports.of("the greenlet 'the one that blocks'")
    assert [before.started, after.started] == [False, False]


def test_who_begins_to_watch_is_named_before_the_first_switch_too(reports):
    def watch_and_block(who: str) -> None:
        with watch_for_blocking(SECONDS):
            block(reports, who)

    watch_and_block("the main greenlet")
    named("the beginner", watch_and_block, "the greenlet 'the beginner'").join()
    assert reports.of("the main greenlet")
    assert reports.of("the greenlet 'the beginner'")


def test_a_callback_that_blocks_in_the_hub_is_told(watched, reports, wait_until):
    watched.loop.run_callback(block, reports, "a callback of the hub")
    wait_until(lambda: reports.of("a callback of the hub"))


def test_what_goes_on_blocking_is_told_again_when_it_is_ten_times_as_long(watched, reports, wait_until):
    named("stubborn", block, reports, "the greenlet 'stubborn'", 2).join()
    wait_until(lambda: reports.of("the greenlet 'stubborn'", logging.WARNING))
    _, again = reports.of("the greenlet 'stubborn'")
    assert float(re.search(r" for (\d+\.\d) s, at ", again.getMessage())[1]) >= 10 * SECONDS


def test_what_blocks_later_on_is_told_like_the_first_time(watched, reports, wait_until):
    for name in ("first", "second", "third"):
        named(name, block, reports, f"the greenlet {name!r}").join()
        wait_until(lambda name=name: reports.of(f"the greenlet {name!r}", logging.WARNING))
    assert all(reports.of(f"the greenlet {name!r}") for name in ("first", "second", "third"))


def test_what_holds_pythons_lock_meanwhile_is_told_afterwards(watched, reports):
    def match(who: str) -> None:
        while reports.lacks(who):
            re.match("(a+)+$", "a" * 20 + "b")  # which takes long, and lets no other thread run
            gevent.sleep(3 * SECONDS)

    named("the matcher", match, "the greenlet 'the matcher'").join()
    assert reports.of("the greenlet 'the matcher'")[0].stack_info.endswith(").match(string)")


LONG = 1000.0  # seconds


@pytest.fixture
def watch(reports: Reports) -> _Watch:
    """A watch that looks when it is told to. `watch._alive -= 2 * LONG` is a hub that did not run for so long."""
    return _Watch(LONG)


def test_a_hub_that_ran_since_is_not_reported(watch, reports):
    watch._alive -= 2 * LONG
    watch.beat()
    watch.look(gevent.get_hub())
    assert reports.records == []


def test_beginning_and_end_are_told_once(watch, reports):
    watch._alive -= 2 * LONG
    for _ in range(3):
        watch.look(gevent.get_hub())
    for _ in range(3):
        watch.beat()
        watch.look(gevent.get_hub())
    assert [record.levelname for record in reports.records] == ["ERROR", "WARNING"]
    assert all("2000" in record.getMessage() for record in reports.records)


def test_a_hub_that_waits_for_something_to_do_is_not_reported_when_the_machine_lets_it_wait(watch, reports):
    hub = gevent.get_hub()

    def look_when_it_waits() -> None:
        while sys._current_frames()[hub.thread_ident].f_code is not gevent.hub.Hub.run.__code__:
            get_original("time", "sleep")(0.001)
        watch.look(hub)

    watch._alive -= 2 * LONG
    offload(look_when_it_waits)  # in another thread
    assert reports.records == []
    watch.look(hub)
    assert len(reports.records) == 1


def test_the_hub_of_another_thread_is_watched_by_who_runs_in_it(reports):
    def run() -> Any:
        hub = gevent.get_hub()
        try:
            with watch_for_blocking(SECONDS):
                named("in another thread", block, reports, "the greenlet 'in another thread'").join()
        finally:
            hub.destroy()
        return hub

    assert offload(run) is not gevent.get_hub()
    assert reports.of("the greenlet 'in another thread'")


def test_a_hub_that_has_not_run_yet_is_watched_too(reports):
    def run() -> None:
        hub = gevent.get_hub()
        try:
            with watch_for_blocking(SECONDS):
                block(reports, "the greenlet <ThreadPoolWorker")
        finally:
            hub.destroy()

    offload(run)
    assert reports.of("the greenlet <ThreadPoolWorker")


def test_nothing_prints_past_the_log(watched, reports, capfd):
    named("silent", block, reports, "the greenlet 'silent'", 2).join()
    assert capfd.readouterr() == ("", "")


def test_when_it_is_over_the_hub_has_no_monitor_thread_any_more():
    hub = gevent.get_hub()
    with watch_for_blocking(SECONDS):
        monitor = hub.periodic_monitoring_thread
        assert monitor.should_run
    assert hub.periodic_monitoring_thread is None
    assert not monitor.should_run


def test_no_time_at_all_watches_nothing():
    with watch_for_blocking(0):
        assert gevent.get_hub().periodic_monitoring_thread is None


@pytest.fixture
def gevents_monitor() -> Iterator[PeriodicMonitoringThread]:
    """A monitor thread as gevent starts it when it is told to."""
    hub = gevent.get_hub()
    hub.periodic_monitoring_thread = monitor = PeriodicMonitoringThread(hub)
    yield monitor
    monitor.kill()
    hub.periodic_monitoring_thread = None


def test_a_hub_that_gevent_monitors_keeps_its_monitor(gevents_monitor, reports):
    hub = gevent.get_hub()
    with watch_for_blocking(SECONDS):
        block(reports, "the main greenlet")
        assert hub.periodic_monitoring_thread is gevents_monitor
    assert hub.periodic_monitoring_thread is gevents_monitor
    assert gevents_monitor.should_run
    assert len(gevents_monitor.monitoring_functions()) == 1
    assert reports.of("the main greenlet")
