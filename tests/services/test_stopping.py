"""Stopping: what becomes of handlers that run, of stops that meet a start or each other, and what is left behind."""

import os
import threading

import gevent
import pytest
from gevent.event import Event

from dploylib.config import YAMLConfigMapper
from dploylib.errors import ConfigurationError, ServiceFailing, ServiceStateError
from dploylib.services import Service, State, coordinator
from dploylib.transport import Context, Problem, Socket
from tests.services import suite
from tests.services.suite import Dies, Echo, Everything, SlowToSetUp, Waits, WaitsAndKnows

ANYWHERE = "tcp://127.0.0.1:*"
both = pytest.mark.parametrize("concurrency", [1, 10])


@pytest.fixture
def waiting(make_service, config_for, flags, wait_until):
    """A service with a handler that runs, and the socket of its caller."""
    made = []

    def make(server_cls: type[Waits] = Waits, **request) -> tuple[Service, Socket]:
        service = make_service(waits=server_cls)
        service.start(config_dict=config_for(service, waits={"request": request}))
        client = Socket.connect_new("req", service.endpoints["waits"]["request"])
        made.append(client)
        client.send_text("hello")
        wait_until(flags.running.is_set)
        return service, client

    yield make
    for client in made:
        client.close(linger=0)


def status_of(client: Socket) -> int | None:
    """The status of the problem that comes, or None for another reply."""
    problem = Problem.from_envelope(client.receive_envelope(timeout=10))
    return problem and problem.status


# Handlers that run -----------------------------------------------------------------------------------------------


@both
def test_a_running_handler_may_finish_and_its_reply_reaches_the_caller(waiting, flags, concurrency):
    service, client = waiting(concurrency=concurrency)
    stopping = gevent.spawn(service.stop, 60)
    gevent.sleep(0.01)
    assert service.state is State.STOPPING
    assert not stopping.dead
    flags.go_on.set()
    stopping.get(timeout=10)
    assert client.receive_text(timeout=10) == "done"


@both
def test_a_handler_over_the_time_is_ended_and_its_caller_told(waiting, concurrency):
    service, client = waiting(concurrency=concurrency)
    service.stop(0.02)
    assert status_of(client) == 503
    assert service.state is State.STOPPED


def test_a_stop_may_take_as_long_as_it_takes(waiting, flags, wait_until):
    service, client = waiting(suite.WaitsAndKnows)
    stopping = gevent.spawn(service.stop, float("inf"))
    wait_until(flags.stopping.is_set)
    flags.go_on.set()
    assert client.receive_text(timeout=10) == "done"
    stopping.get(timeout=10)


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_a_graceful_timeout_that_is_none_is_refused(any_service, config_for, seconds):
    service = any_service(echo=Echo)
    service.start(config_dict=config_for(service))
    with pytest.raises(ValueError, match="a number of seconds from 0 on, not"):
        service.stop(seconds)
    assert service.state is State.RUNNING


@both
def test_a_second_stop_shortens_the_first(waiting, concurrency):
    service, client = waiting(concurrency=concurrency)
    first = gevent.spawn(service.stop, 3600)
    gevent.sleep(0.01)
    longer = gevent.spawn(service.stop, 7200)
    gevent.sleep(0.01)
    assert not first.dead
    service.stop(0)
    assert service.state is State.STOPPED
    gevent.joinall([first, longer], timeout=10, raise_error=True)
    assert first.dead
    assert longer.dead
    assert status_of(client) == 503


def test_every_stop_returns_when_all_is_over_and_not_before(waiting, flags, ipc_dir):
    service, _ = waiting(uri=f"ipc://{ipc_dir}/waits")
    states = []

    def stop():
        service.stop(60)
        states.append((service.state, service.context.closed, list(ipc_dir.iterdir())))

    stopping = [gevent.spawn(stop) for _ in range(3)]
    gevent.sleep(0.01)
    assert list(ipc_dir.iterdir())
    flags.go_on.set()
    gevent.joinall(stopping, timeout=10, raise_error=True)
    assert states == [(State.STOPPED, True, [])] * 3


def test_a_request_that_nobody_has_read_when_the_stop_begins_is_turned_away_at_once(waiting, flags):
    service, client = waiting()
    with Socket.connect_new("req", service.endpoints["waits"]["request"]) as early:
        early.send_text("waits in the queue")
        stopping = gevent.spawn(service.stop, 60)
        assert status_of(early) == 503
        assert not stopping.dead
        flags.go_on.set()
        stopping.get(timeout=10)
        assert client.receive_text(timeout=10) == "done"


@both
def test_who_asks_during_the_stop_is_turned_away_at_once(waiting, flags, wait_until, concurrency):
    service, client = waiting(WaitsAndKnows, concurrency=concurrency)
    with Socket.connect_new("req", service.endpoints["waits"]["request"]) as late:
        stopping = gevent.spawn(service.stop, 60)
        wait_until(flags.stopping.is_set)
        late.send_text("comes too late")
        assert status_of(late) == 503
        assert not stopping.dead
        flags.go_on.set()
        stopping.get(timeout=10)
        assert client.receive_text(timeout=10) == "done"


def test_replies_and_messages_that_are_queued_are_flushed(make_service, config_for):
    service = make_service(says=suite.SaysALot)
    with Context.new() as context, context.socket("pull") as pull:
        pull.bind(ANYWHERE)
        service.start(config_dict=config_for(service, says={"out": {"uri": pull.endpoint}}))
        service.stop()
        assert [pull.receive_text(timeout=10) for _ in range(1000)] == list(map(str, range(1000)))


# Races -----------------------------------------------------------------------------------------------------------


def test_a_stop_during_the_start_ends_both(make_service, config_for, flags, wait_until, ipc_dir):
    service = make_service(slow=SlowToSetUp, waits=Waits)
    config = config_for(
        service, **{name: {"request": {"uri": f"ipc://{ipc_dir}/{name}"}} for name in ("slow", "waits")}
    )
    starting = gevent.spawn(_error_of, service.start, config_dict=config)
    wait_until(flags.begun.is_set)
    assert service.state is State.STARTING
    with pytest.raises(ServiceStateError):
        service.start(config_dict=config)
    service.stop(60)
    assert service.state is State.STOPPED
    error = starting.get(timeout=10)
    assert isinstance(error, ServiceStateError)
    assert str(error) == "the service was stopped while it started"
    assert not list(ipc_dir.iterdir())
    flags.go_on.set()
    with service.start(config_dict=config):
        assert service.state is State.RUNNING
    service.wait()


def _error_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error
    return None


def test_a_stop_while_the_configuration_is_loaded_ends_the_start_too(coordinator, leak_check):
    loading, go_on = Event(), Event()

    class SlowMapper(YAMLConfigMapper):
        def process_dict(self, data, overrides=None):
            loading.set()
            go_on.wait()
            return super().process_dict(data, overrides)

    service = Service(config_mapper=SlowMapper(), coordinator=coordinator())
    service.add_server("echo", Echo)
    config = {"servers": {"echo": {"request": {"uri": ANYWHERE}}}}
    starting = gevent.spawn(_error_of, service.start, config_dict=config)
    loading.wait()
    stopping = gevent.spawn(service.stop)
    gevent.sleep(0.01)
    go_on.set()
    stopping.get(timeout=10)
    assert isinstance(starting.get(timeout=10), ServiceStateError)
    assert service.state is State.STOPPED
    service.start(config_dict=config).stop()


def test_a_stop_while_servers_are_made_ends_the_start_too(make_service, config_for, flags, wait_until):
    service = make_service(slow=suite.SlowToMake, other=Waits)
    starting = gevent.spawn(_error_of, service.start, config_dict=config_for(service))
    wait_until(flags.making.is_set)
    stopping = gevent.spawn(service.stop)
    gevent.sleep(0.01)
    flags.go_on.set()
    stopping.get(timeout=10)
    assert isinstance(starting.get(timeout=10), ServiceStateError)
    assert service.state is State.STOPPED


def test_a_killed_start_leaves_nothing(make_service, config_for, flags, wait_until):
    service = make_service(slow=SlowToSetUp)
    starting = gevent.spawn(service.start, config_dict=config_for(service))
    wait_until(flags.begun.is_set)
    starting.kill()
    assert service.state is State.STOPPED
    assert service.context.closed


def test_a_killed_stop_closes_all_the_same(waiting):
    service, _client = waiting()
    stopping = gevent.spawn(service.stop, 3600)
    gevent.sleep(0.01)
    stopping.kill(block=False)
    service.stop(0)
    assert service.state is State.STOPPED
    assert service.context.closed


def test_a_server_that_dies_during_the_stop_is_not_a_failure_of_the_service(start, caplog):
    service = start(last=suite.DiesLast, told=suite.DiesWhenTold)
    service.stop()
    service.wait()
    assert service.state is State.STOPPED


def test_a_server_that_dies_while_another_one_still_starts_fails_the_start(make_service, config_for, flags):
    service = make_service(dies=suite.DiesOnceOthersBegun, slow=SlowToSetUp)
    waited = gevent.spawn_later(10, flags.go_on.set)
    error = _error_of(service.start, config_dict=config_for(service))
    waited.kill()
    assert "server 'dies' died: " in str(error)
    assert isinstance(error.__cause__, ValueError)
    assert service.state is State.STOPPED


def test_stop_right_after_start_again_and_again(make_service, config_for, rounds):
    service = make_service(a=Waits, b=Waits)
    config = config_for(service)
    for _ in range(rounds):
        service.start(config_dict=config)
        first, second = gevent.spawn(service.stop), gevent.spawn(service.stop, 0)
        gevent.joinall([first, second], timeout=10, raise_error=True)
        assert service.state is State.STOPPED


# What the start of a thread or a process takes is not counted in turns of this hub: the moments are further apart.
TURNS = {
    "greenlet": lambda moment: moment,
    "thread": lambda moment: 2**moment,
    "process": lambda moment: 1000 * 2**moment,
}


def test_start_and_stop_at_any_moment_of_each_other(make_service, config_for, kind):
    """A stop is tried at each of the moments at which the start lets others run."""
    service = make_service(a=suite.Switches, b=Waits)
    config = config_for(service)
    for moment in range(1, 1000):
        starting = gevent.spawn(_error_of, service.start, config_dict=config)
        for _ in range(TURNS[kind](moment)):
            gevent.sleep(1e-9)  # one turn of the hub
        running = service.state is State.RUNNING
        service.stop()
        assert service.state is State.STOPPED
        error = starting.get(timeout=10)
        assert error is None if running else isinstance(error, ServiceStateError), moment
        if running:
            break
    assert running
    assert moment > 2


# Servers that do not end -----------------------------------------------------------------------------------------


@pytest.fixture
def soon_killed(monkeypatch):
    """The patience of coordinators and servers is too long for a test."""
    monkeypatch.setattr(coordinator, "_CLOSING_TIME", 0.1)
    monkeypatch.setattr(coordinator, "_DYING_TIME", 0.1)
    monkeypatch.setattr("dploylib.servers.server.ENDING_TIME", 0.05)


@both
def test_a_handler_that_swallows_its_end_does_not_keep_stop(
    make_service, config_for, flags, wait_until, bind_again, concurrency, soon_killed, caplog
):
    service = make_service(stubborn=suite.StubbornHandler, fine=Waits)
    service.start(config_dict=config_for(service, stubborn={"request": {"concurrency": concurrency}}))
    endpoint = service.endpoints["stubborn"]["request"]
    with Socket.connect_new("req", endpoint) as client:
        client.send_text("hello")
        wait_until(flags.running.is_set)
        service.stop(0)
        assert service.state is State.STOPPED
        bind_again(endpoint)
        service.wait()
        client.close(linger=0)
    flags.go_on.set()  # so that the test leaves nothing behind


def test_a_teardown_that_hangs_and_swallows_is_given_up(
    make_service, config_for, flags, wait_until, bind_again, kind, soon_killed, caplog
):
    service = make_service(hangs=suite.StubbornTeardown)
    config = config_for(service)
    service.start(config_dict=config)
    endpoint = service.endpoints["hangs"]["request"]
    service.stop(0)
    assert "server hangs did not stop within" in caplog.text
    killed = kind == "process"  # which ends a process, and nothing else for certain
    assert ("server hangs goes on although it was killed" in caplog.text) is not killed
    bind_again(endpoint)
    # When it ends at last, that is no failure of the run that comes after.
    service.start(config_dict=config)
    flags.go_on.set()
    wait_until(lambda: flags.events.lines() or killed)
    gevent.sleep(0.02)
    assert service.state is State.RUNNING
    service.stop()
    service.wait()


def test_a_setup_that_swallows_its_end_does_not_keep_stop(make_service, config_for, flags, wait_until, soon_killed):
    service = make_service(stubborn=suite.StubbornSetup)
    starting = gevent.spawn(_error_of, service.start, config_dict=config_for(service))
    wait_until(flags.begun.is_set)
    service.stop(0)
    assert isinstance(starting.get(timeout=10), ServiceStateError)
    flags.go_on.set()


# Nothing is left -------------------------------------------------------------------------------------------------


def tasks() -> set[str]:
    """The native threads of this process: Python's and libzmq's."""
    return set(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else set(map(str, _thread_ids()))


def _thread_ids():
    return [thread.native_id for thread in threading.enumerate()]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


def test_many_rounds_leave_no_greenlet_descriptor_thread_or_ipc_file(
    ipc_dir, make_service, ask, wait_until, kind, rounds
):
    service = make_service(all=Everything, other=Everything)
    for number in range(rounds + 1):
        tcp, ipc, inproc = (ANYWHERE, f"ipc://{ipc_dir}/{{}}", "inproc://{}")
        asked_in_process = ipc if kind == "process" else inproc
        sockets = {
            name: {
                "one": {"uri": tcp},
                "many": {"uri": ipc.format(f"{name}-many")},
                "router": {"uri": asked_in_process.format(f"{name}-router")},
                "out": {"uri": [tcp, ipc.format(f"{name}-out")]},
                "work": {"uri": inproc.format(f"{name}-work")},
                "pull": {"uri": [inproc.format(f"{name}-work"), "tcp://127.0.0.1:9"]},
            }
            for name in ("all", "other")
        }
        with service.start(config_dict={"servers": sockets}):
            for sockets_of in service.endpoints.values():
                assert ask(sockets_of["one"]) == "hello"
                assert ask(sockets_of["many"]) == "hello"
                assert ask(sockets_of["router"], context=service.context) == "hello"
            # A client that is still there when the service stops, and a socket that nobody closes.
            lasting = Socket.connect_new("req", service.endpoints["all"]["one"])
            service.context.socket("push").connect("inproc://nobody")
        lasting.close()
        wait_until(lambda: not list(ipc_dir.iterdir()))
        if number == 0:
            before = len(tasks()), descriptors()
    wait_until(lambda: len(tasks()) <= before[0] and descriptors() <= before[1])


def test_failed_starts_leave_nothing_either(ipc_dir, make_service, wait_until, rounds):
    service = make_service(fine=Everything, broken=suite.EverythingAndThenBroken)
    uris = {
        "one": ANYWHERE,
        "many": f"ipc://{ipc_dir}/{{}}",
        "router": "inproc://{}-r",
        "out": f"ipc://{ipc_dir}/{{}}o",
    }
    uris |= {"work": "inproc://{}-w", "pull": "inproc://{}-w"}
    config = {
        "servers": {
            name: {socket: {"uri": uri.format(name)} for socket, uri in uris.items()} for name in ("fine", "broken")
        }
    }
    for number in range(rounds):
        with pytest.raises(ValueError, match="broken"):
            service.start(config_dict=config)
        assert not list(ipc_dir.iterdir())
        if number == 0:
            before = len(tasks()), descriptors()
    wait_until(lambda: len(tasks()) <= before[0] and descriptors() <= before[1])


@pytest.mark.one_process("a process has contexts of its own")
def test_rounds_in_a_given_context_leave_nothing(make_service, coordinator, config_for, wait_until, rounds):
    with Context.new() as context:
        service = make_service(coordinator(context=context), waits=Waits)
        config = config_for(service, waits={"request": {"uri": "inproc://waits"}})
        for number in range(rounds):
            service.start(config_dict=config)
            service.stop()  # and the names of inproc are free at once
            if number == 0:
                before = descriptors()
        wait_until(lambda: descriptors() <= before)
        assert repr(context) == "<Context green, 0 sockets>"


@pytest.mark.greenlet_only("to close a context closes its sockets, which is for their own thread to do")
def test_a_context_that_was_closed_before_the_service_does_not_keep_it_from_stopping(
    make_service, coordinator, config_for
):
    context = Context.new()
    service = make_service(coordinator(context=context), waits=Waits)
    service.start(config_dict=config_for(service))
    context.close()
    service.stop(0)
    assert service.state is State.STOPPED


def test_failures_leave_nothing(make_service, config_for, flags):
    service = make_service(dies=Dies)
    for _ in range(3):
        service.start(config_dict=config_for(service))
        flags.die.set()
        with pytest.raises(ServiceFailing):
            service.wait()
        service.stop()
        flags.clear()


@pytest.mark.parametrize("config", [{"servers": {}}, {"servers": {"tested": {}}}], ids=["load", "constructor"])
def test_a_service_that_did_not_start_need_not_be_waited_for(make_service, config):
    service = make_service(tested=suite.NeverMade)
    with pytest.raises((ConfigurationError, ZeroDivisionError)):
        service.start(config_dict=config)
    assert service.state is State.STOPPED
    with gevent.Timeout(10):
        service.wait()


def test_running_a_service_that_runs_leaves_it_running(start, ask):
    service = start(tested=Echo)
    with pytest.raises(ServiceStateError):
        service.run(config_dict={"servers": {}})
    assert service.state is State.RUNNING
    assert ask(service.endpoints["tested"]["request"]) == "hello"


def test_background_greenlets_that_take_long_to_end_do_not_cost_the_teardown(start, flags, wait_until, caplog):
    service = start(tested=suite.TidiesSlowly)
    wait_until(flags.begun.is_set)
    service.stop(0.1)
    assert flags.events.lines() == ["torn down"]
    assert "tidy_slowly does not end although it was told to" in caplog.text


def test_the_death_of_one_receive_greenlet_is_not_hidden_by_a_slow_handler(waiting, flags):
    service, client = waiting(suite.WaitsDeaf)
    flags.die.set()
    with gevent.Timeout(10), pytest.raises(ServiceFailing, match="SocketClosed"):
        service.wait()
    assert status_of(client) == 503


@pytest.mark.greenlet_only("the test has to know when the server has failed")
def test_a_server_that_has_died_when_it_is_told_to_stop_is_told_in_the_log(make_service, config_for, caplog):
    failed, may_go_on = Event(), Event()

    class DiesSlowly(Echo):
        def teardown(self):
            failed.set()
            may_go_on.wait()

        def die(self):
            raise ZeroDivisionError("a greenlet died")

    service = make_service(dies=DiesSlowly)
    service.start(config_dict=config_for(service))
    service.servers["dies"].spawn(service.servers["dies"].die)
    failed.wait()
    stopping = gevent.spawn(service.stop, 60)
    gevent.sleep(0)
    may_go_on.set()
    stopping.get(timeout=10)
    service.wait()  # which has nothing to say: it was stopped
    [record] = [record for record in caplog.records if "died while it was to stop" in record.message]
    assert "a greenlet died" in str(record.exc_info[1])
