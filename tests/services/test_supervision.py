"""Servers that die and are started again."""

import gc
import signal

import gevent
import psutil
import pytest

from dploylib.config import Settings, Supervision
from dploylib.errors import ConfigurationError, ProcessDied, ServiceFailing
from dploylib.servers import Hook
from dploylib.services import State
from dploylib.services import coordinator as coordinator_module
from dploylib.services.supervision import Restarts
from dploylib.transport import Socket
from tests.services.suite import CountsRestarts, Echo, Mortal

SOON = {"restart": "on-failure", "backoff": 0.01}


# When a server is started again, without any server -----------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def all_of_it(low: float, high: float) -> float:
    return high


def test_a_server_is_not_started_again_unless_it_is_to():
    assert Restarts(Supervision()).next_delay() is None


def test_so_many_times_within_the_period_and_no_more():
    clock = Clock()
    restarts = Restarts(Supervision(restart="on-failure", intensity=3, period=10, backoff=0), clock, all_of_it)
    assert [restarts.next_delay() for _ in range(4)] == [0, 0, 0, None]
    assert restarts.total == 3
    assert str(restarts) == "3 times within 10 s"


def test_what_is_longer_ago_than_the_period_does_not_count():
    clock = Clock()
    restarts = Restarts(Supervision(restart="on-failure", intensity=2, period=10, backoff=1), clock, all_of_it)
    for clock.now in (0, 6, 12, 18, 24):  # never three of them within 10 s
        assert restarts.next_delay() is not None
    clock.now = 25
    assert restarts.next_delay() is None


def test_each_time_it_takes_twice_as_long_up_to_a_limit():
    policy = Supervision(restart="on-failure", intensity=6, backoff=0.5, backoff_limit=3)
    restarts = Restarts(policy, Clock(), all_of_it)
    assert [restarts.next_delay() for _ in range(6)] == [0.5, 1, 2, 3, 3, 3]


def test_a_long_row_of_restarts_does_not_overflow():
    restarts = Restarts(Supervision(restart="on-failure", intensity=5000, backoff_limit=1), Clock(), all_of_it)
    assert [restarts.next_delay() for _ in range(5000)][-1] == 1


def test_a_random_part_of_the_time_is_left_out_and_at_most_a_half():
    policy = Supervision(restart="on-failure", intensity=1000, backoff=8, backoff_limit=8)
    restarts = Restarts(policy)
    delays = [restarts.next_delay() for _ in range(1000)]
    assert all(4 <= delay <= 8 for delay in delays)
    assert len(set(delays)) > 900


def test_its_configuration_names_servers_that_there_are(any_service, config_for):
    service = any_service(echo=Echo)
    config = config_for(service)
    config["supervision"] = {"ecko": {}}
    with pytest.raises(ConfigurationError, match=r"supervision\.ecko: the service has no server 'ecko'; did you mean"):
        service.load(config_dict=config)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"restart": "always"}, "restart: found 'always' (string), expected never or on-failure"),
        ({"restart": True}, "restart: found true (boolean), expected string"),
        ({"intensity": 0}, "intensity: found 0 (integer), expected integer >= 1"),
        ({"period": 0}, "period: found 0 (integer), expected finite number > 0"),
        ({"backoff": -1}, "backoff: found -1 (integer), expected finite number >= 0"),
        ({"retries": 3}, "retries: unknown key 'retries'"),
    ],
)
def test_what_is_wrong_with_it_is_said(values, says):
    with pytest.raises(ConfigurationError) as caught:
        Settings({"servers": {}, "supervision": {"echo": values}})
    assert f"supervision.echo.{says}" in str(caught.value)


# Servers that die ----------------------------------------------------------------------------------------------------


@pytest.fixture
def supervised(make_service, config_for, flags):
    """A service of a server that can die, and another one, with this supervision of the first."""

    def supervised(hooks=(), **supervision):
        service = make_service(mortal=Mortal, echo=Echo)
        for hook in hooks:
            service.add_hook(hook)
        config = config_for(service)
        config["supervision"] = {"mortal": {**SOON, **supervision}}
        return service.start(config_dict=config)

    return supervised


@pytest.fixture
def ask_again(ask):
    """Ask until there is an answer that is no problem: meanwhile the server may be down."""

    def ask_again(endpoint, text="hello"):
        with gevent.Timeout(20):
            while True:
                with Socket.connect_new("dealer", endpoint, {"linger": 0}) as client:
                    client.send_frames([b"", b"", b"text/plain", text.encode()])
                    if client.wait_readable(timeout=0.2):
                        *_, mimetype, body = client.receive_frames()
                        if mimetype == b"text/plain":
                            return body.decode()

    return ask_again


def test_a_server_that_dies_is_started_again_at_its_endpoint(supervised, ask, ask_again, flags, wait_until, caplog):
    service = supervised(intensity=3)
    endpoints = service.endpoints
    for count in (1, 2):
        assert ask(endpoints["mortal"]["request"], "die") == "die"
        wait_until(lambda count=count: len(flags.events.lines()) == count + 1)
        assert ask_again(endpoints["mortal"]["request"]) == "hello"
        assert service.restarts == {"mortal": count, "echo": 0}
        assert service.endpoints == endpoints
        assert service.state is State.RUNNING
    assert ask(endpoints["echo"]["request"]) == "hello"
    assert "server mortal died, and is started again in 0.0" in caplog.text
    assert "KeyError: 'it was asked to'" in caplog.text
    service.stop()
    service.wait()


def test_one_death_more_than_may_be_and_the_service_fails(supervised, ask_again, ask, flags):
    service = supervised(intensity=2)
    endpoint = service.endpoints["mortal"]["request"]
    for _ in range(3):
        assert ask_again(endpoint) == "hello"
        assert ask(endpoint, "die") == "die"
    with pytest.raises(ServiceFailing) as caught:
        service.wait()
    assert str(caught.value) == (
        "server 'mortal' died: Mortal.die raised KeyError: 'it was asked to'; it was started again 2 times within 60 s "
        "already, which is as often as it may be"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    assert ask(service.endpoints["echo"]["request"]) == "hello"
    assert len(flags.events.lines()) == 3


def test_a_start_that_fails_again_counts_and_is_tried_again(supervised, ask_again, wait_until, flags, caplog):
    service = supervised(intensity=50, period=3600, backoff_limit=0.05)
    endpoint = service.endpoints["mortal"]["request"]
    flags.broken.set()
    ask_again(endpoint, "die")
    wait_until(lambda: service.restarts["mortal"] >= 3)
    flags.broken.unset()
    assert ask_again(endpoint) == "hello"
    assert "ValueError: broken in setup" in caplog.text
    service.stop()
    service.wait()


def test_a_stop_while_a_server_is_down_starts_it_no_more(supervised, ask_again, wait_until, flags):
    service = supervised(backoff=3600, backoff_limit=3600)
    ask_again(service.endpoints["mortal"]["request"], "die")
    wait_until(lambda: service.restarts["mortal"])
    service.stop()
    assert service.state is State.STOPPED
    service.wait()
    assert flags.events.lines() == ["set up"]


def test_a_server_that_ends_by_itself_has_not_failed_and_is_not_started_again(supervised, ask_again):
    service = supervised()
    ask_again(service.endpoints["mortal"]["request"], "stop")
    with pytest.raises(ServiceFailing, match=r"server 'mortal' ended without being told to$"):
        service.wait()
    assert service.restarts["mortal"] == 0


def test_hooks_hear_of_it(supervised, ask_again, wait_until, flags):
    service = supervised([CountsRestarts(str(flags.directory))])
    ask_again(service.endpoints["mortal"]["request"], "die")
    wait_until(lambda: flags.hooks.lines().count("mortal started") == 2)
    assert ask_again(service.endpoints["mortal"]["request"]) == "hello"
    service.stop()
    lines = flags.hooks.lines()
    assert "mortal.request handled die" in lines
    assert "mortal failed: server 'mortal' died: Mortal.die raised KeyError: 'it was asked to'" in lines
    assert "mortal restarting: ServerFailing" in lines
    assert sorted(lines[-2:]) == ["echo stopped", "mortal stopped"]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("kill", "was ended by SIGKILL"),
        ("exit", "exited with status 3"),
        ("exit_well", "exited with status 0"),
        ("end_by_a_signal_without_a_name", "was ended by signal 40"),
    ],
)
@pytest.mark.processes_only("it is processes that are ended by a signal")
def test_a_process_that_ends_without_a_word_is_started_again(supervised, ask_again, wait_until, how, says, caplog):
    service = supervised(intensity=2)
    endpoint = service.endpoints["mortal"]["request"]
    pids = set()
    for count in (1, 2):
        pid = int(ask_again(endpoint, "pid"))
        pids.add(pid)
        with Socket.connect_new("dealer", endpoint) as client:
            if how == "kill":
                psutil.Process(pid).send_signal(signal.SIGKILL)
            else:
                client.send_frames([b"", b"", b"text/plain", how.encode()])  # and no reply may come
            wait_until(lambda count=count: service.restarts["mortal"] == count)
        assert f"the process {pid} of server 'mortal' {says}" in caplog.text
    assert ask_again(endpoint) == "hello"
    psutil.Process(int(ask_again(endpoint, "pid"))).kill()
    with pytest.raises(ServiceFailing, match="server 'mortal' ended without being told to: ProcessDied") as caught:
        service.wait()
    assert isinstance(caught.value.__cause__, ProcessDied)
    assert len(pids) == 2


@pytest.mark.greenlet_only("such a hook is not at the top level of a module")
@pytest.mark.parametrize("how", ["kills itself", "takes no notice"])
def test_a_hook_cannot_keep_the_service_from_failing_or_stopping(supervised, ask, wait_until, how, monkeypatch):
    began = []

    class Bad(Hook):
        def server_restarting(self, name, error, seconds):
            began.append(name)
            if how == "kills itself":
                raise gevent.GreenletExit
            while True:
                try:
                    gevent.sleep(3600)
                except gevent.GreenletExit:
                    if len(began) > 1:
                        raise
                    began.append("killed")

    monkeypatch.setattr(coordinator_module, "_DYING_TIME", 0.1)
    service = supervised([Bad()])
    ask(service.endpoints["mortal"]["request"], "die")
    wait_until(lambda: began)
    if how == "kills itself":
        with pytest.raises(ServiceFailing, match="it was asked to"):
            service.wait()
    service.stop(0)
    assert service.state is State.STOPPED
    gevent.killall(
        [one for one in gc.get_objects() if isinstance(one, gevent.Greenlet) and one.name == "supervise server mortal"]
    )
