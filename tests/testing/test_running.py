"""`running` and `service_runner`: a real service inside a test."""

import os
import sys
import traceback
from pathlib import Path

import gevent
import pytest

from dploylib.config import Settings
from dploylib.errors import (
    AddressInUse,
    ConfigurationError,
    ConnectionLost,
    DployError,
    LeftBehind,
    RemoteError,
    ServiceFailing,
    ServiceStateError,
)
from dploylib.security import KeyPair, Security, authorize, read_certificate, write_key_pair
from dploylib.services import (
    GreenletServerCoordinator,
    ProcessServerCoordinator,
    Service,
    State,
    ThreadedServerCoordinator,
)
from dploylib.testing import leaks, running
from dploylib.transport import Context, Envelope
from tests.testing.suite import DiesSlowly, Echo, Front, Hangs, KillsAnother, KnowsPeers, Leaks, News

PATIENCE = 10.0  # seconds; an upper bound for what comes at once, on a loaded machine too
COORDINATORS = [GreenletServerCoordinator, ThreadedServerCoordinator, ProcessServerCoordinator]

pytestmark = pytest.mark.usefixtures("leak_check")


@pytest.fixture(params=COORDINATORS, ids=["greenlets", "threads", "processes"])
def coordinator(request):
    return request.param()


def service_of(coordinator=None, **servers):
    service = Service(coordinator=coordinator)
    for name, cls in servers.items():
        service.add_server(name, cls)
    return service


def ask(it, name, text, **options):
    with it.socket(name, options=options) as client:
        client.send_text(text)
        return client.receive_text(PATIENCE)


# Started, talked to, stopped -------------------------------------------------------------------------------------


def test_a_service_without_a_configuration_runs_until_it_is_left(coordinator):
    service = service_of(coordinator, echo=Echo)
    with running(service) as it:
        assert service.state is State.RUNNING
        assert ask(it, "echo.request", "hello") == "hello"
        assert it.endpoint("echo.request") == it.endpoints["echo"]["request"] == service.endpoints["echo"]["request"]
        assert it.endpoint("echo.answer") == it.endpoint("echo.request")  # the attribute
    assert service.state is State.STOPPED
    with running(service) as it:
        assert ask(it, "echo.request", "again") == "again"


def test_the_fixture_runs_services_until_the_test_is_over(service_runner):
    first = service_runner(service_of(echo=Echo))
    early = first.socket("echo.request")
    second = service_runner(service_of(echo=Echo), general={"greeting": "hi, "})
    assert ask(first, "echo.request", "you") == "you"
    assert ask(second, "echo.request", "you") == "hi, you"
    late = first.socket("echo.request")
    for client in (early, late):  # which nobody closes
        client.send_text("you")
        assert client.receive_text(PATIENCE) == "you"


def test_servers_that_connect_to_each_other_find_each_other(coordinator):
    config = {
        "servers": {
            "back": {"request": {"uri": "tcp://*:14999"}},
            "front": {"request": {"uri": "tcp://0.0.0.0:15000"}, "back": {"uri": "tcp://localhost:14999"}},
        }
    }
    with running(service_of(coordinator, front=Front, back=Echo), config) as it:
        assert ask(it, "front.request", "hello") == "hello"
        assert it.endpoint("front.back") == it.endpoint("back.request")
        assert it.endpoint("back.request").startswith("ipc://")
        assert it.endpoint("front.request").startswith("tcp://127.0.0.1:")
        directory = Path(it.endpoint("back.request").removeprefix("ipc://")).parent
        assert directory.is_dir()
    assert not directory.exists()


def test_an_inproc_endpoint_stays_and_can_be_talked_to():
    config = {
        "servers": {
            "back": {"request": {"uri": "inproc://back"}},
            "front": {"request": {"uri": "tcp://127.0.0.1:1"}, "back": {"uri": "inproc://back"}},
        }
    }
    with running(service_of(front=Front, back=Echo), config) as it:
        assert it.endpoint("back.request") == it.endpoint("front.back") == "inproc://back"
        assert ask(it, "front.request", "hello") == ask(it, "back.request", "hello") == "hello"


def test_an_inproc_endpoint_of_another_process_is_told_to_be_out_of_reach():
    config = {"servers": {"echo": {"request": {"uri": "inproc://echo"}}}}
    far = pytest.raises(LookupError, match="server 'echo' runs in a process of its own")
    with running(service_of(ProcessServerCoordinator(), echo=Echo), config) as it, far:
        it.socket("echo.request")


def test_a_test_stands_in_for_a_service_that_is_somewhere_else(coordinator):
    config = {
        "servers": {"front": {"request": {"uri": "tcp://*:1"}, "back": {"uri": "tcp://production.example:14999"}}}
    }
    with running(service_of(coordinator, front=Front), config) as it:
        back, client = it.socket("front.back"), it.socket("front.request")
        client.send_text("hello")
        assert back.receive_text(PATIENCE) == "hello"
        back.send_text("HELLO")
        assert client.receive_text(PATIENCE) == "HELLO"


def test_a_peer_fits_the_type_of_the_socket(wait_until):
    with running(service_of(news=News)) as it:
        work, feed, pair, push = (it.socket(f"news.{name}") for name in ("work", "feed", "pair", "in"))
        listener, quiet = it.socket("news.out"), it.socket("news.out", options={"subscribe": "nothing like it"})
        types = [one.socket_type for one in (work, feed, pair, push, listener)]
        assert types == ["pull", "pub", "pair", "push", "sub"]
        heard = gevent.spawn(listener.receive_text, PATIENCE)
        while not heard.ready():  # what is published before the listener has subscribed is not for it
            push.send_text("news")
            assert work.receive_text(PATIENCE) == "news"
        assert heard.get() == "news"
        assert not quiet.readable()
        pair.send_text("Hello")
        assert pair.receive_text(PATIENCE) == "hello"
        assert ask_routed(it.socket("news.routed"), "hello") == "HELLO"
        assert ask_routed(it.socket("news.routed", "req"), "hello") == "HELLO"
        assert it.socket("news.routed", "req").socket_type == "req"
        told = gevent.spawn(work.receive_text, PATIENCE)
        while not told.ready():
            feed.send_text("fed")
            gevent.sleep(0.002)
        assert told.get() == "fed"


def ask_routed(socket, text):
    frames = [b""] if socket.socket_type == "dealer" else []
    socket.send_frames([*frames, *Envelope.new("text/plain", text).transfer_object()])
    return socket.receive_frames(PATIENCE)[-1].decode()


def test_a_client_fits_the_type_of_the_socket(coordinator):
    with running(service_of(coordinator, echo=Echo, news=News), general={"greeting": "hi, "}) as it:
        client = it.client("echo.request", timeout=PATIENCE)
        assert (client.request("you").text, client.timeout) == ("hi, you", PATIENCE)
        assert it.client("news.routed").request("hello").text == "HELLO"
        assert it.client("echo.request") is not client
        listener, push = it.client("news.out", id="topic"), it.client("news.in")
        work = it.socket("news.work")
        push.push("not for the listener")
        push.push("news", id="topic of the day")
        assert [work.receive_text(PATIENCE) for _ in range(2)] == ["not for the listener", "news"]
        assert listener.receive(PATIENCE).text == "news"  # without a wait for its subscription
        for name in ("news.work", "news.pair"):
            with pytest.raises(LookupError, match="there is no client"):
                it.client(name)


def test_a_client_reaches_an_inproc_endpoint():
    with running(service_of(echo=Echo), echo={"request": {"uri": "inproc://echo"}}) as it:
        assert it.client("echo.request").request("hello").text == "hello"


def test_the_server_can_be_looked_into_where_it_runs_in_this_process():
    with running(service_of(echo=Echo)) as it:
        assert it.server("echo").counts["request"].received == 0
        with pytest.raises(LookupError, match="the service has no server 'ohce'; there are echo"):
            it.server("ohce")
    far = pytest.raises(LookupError, match="in a process of its own")
    with running(service_of(ProcessServerCoordinator(), echo=Echo)) as it, far:
        it.server("echo")


@pytest.mark.parametrize("name", ["echo.reqest", "ohce.request", "echo", ""])
def test_a_socket_that_does_not_exist_is_told_with_those_that_do(name, service_runner):
    it = service_runner(service_of(echo=Echo))
    for find in (it.endpoint, it.socket):
        with pytest.raises(LookupError, match=f"no socket '{name}'; there are echo.request"):
            find(name)


# Its configuration ------------------------------------------------------------------------------------------------

YAML = """
servers:
  echo:
    request:
      uri: tcp://${NOWHERE:-10.255.255.1}:14445
      concurrency: 7
general:
  greeting: good ${DAY_PART:-morning}
  literal: $${DAY_PART}
"""


@pytest.mark.parametrize("kind", ["path", "str", "string"])
def test_a_configuration_is_a_file_or_yaml_and_its_endpoints_are_not_used(kind, service_runner, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML)
    given = {
        "path": {"config": tmp_path / "config.yaml"},
        "str": {"config": str(tmp_path / "config.yaml")},
        "string": {"config_string": YAML},
    }[kind]
    it = service_runner(service_of(echo=Echo), **given)
    assert ask(it, "echo.request", "!") == "good morning!"
    settings = it.server("echo").settings
    assert settings.get("literal") == "${DAY_PART}"
    assert settings.socket_info("request").concurrency == 7
    assert it.endpoint("echo.request").startswith("tcp://127.0.0.1:")


def test_keywords_replace_parts_of_the_configuration(service_runner):
    double = object()
    it = service_runner(
        service_of(echo=Echo),
        config_string=YAML,
        general={"greeting": "hi", "double": double},
        supervision={"echo": {"restart": "on-failure"}},
        echo={"answer": {"timeout": 3}},
    )
    settings = it.server("echo").settings
    assert (settings.get("greeting"), settings.get("literal")) == ("hi", "${DAY_PART}")
    assert settings.get("double") is double
    info = settings.socket_info("request")
    assert (info.concurrency, info.timeout) == (7, 3)
    assert it.service.restarts == {"echo": 0}


def test_an_endpoint_that_a_keyword_gives_stays(service_runner, ipc_dir):
    uri = f"ipc://{ipc_dir}/echo"
    with running(
        service_of(echo=Echo, front=Front), echo={"request": {"uri": uri}}, front={"back": {"uri": uri}}
    ) as it:
        assert it.endpoint("echo.request") == it.endpoint("front.back") == uri
        assert ask(it, "front.request", "hello") == "hello"
    config = {
        "servers": {
            "echo": {"request": {"uri": "tcp://127.0.0.1:14999"}},
            "front": {"request": {"uri": "tcp://*:1"}, "back": {"uri": uri}},
        }
    }
    with running(service_of(echo=Echo, front=Front), config, echo={"answer": {"uri": uri}}) as it:
        assert it.endpoint("echo.request") == it.endpoint("front.back") == uri  # which leads there
        assert ask(it, "front.request", "hello") == "hello"


def test_what_is_wrong_with_a_configuration_is_told():
    with pytest.raises(ConfigurationError, match="no such file"), running(service_of(echo=Echo), "nowhere.yaml"):
        pass
    unknown = pytest.raises(ConfigurationError, match="a socket 'reqest' that server 'echo' lacks; did you mean")
    with unknown, running(service_of(echo=Echo), echo={"reqest": {"timeout": 3}}):
        pass
    unknown = pytest.raises(ConfigurationError, match="a server 'ohce' that the service lacks")
    with unknown, running(service_of(echo=Echo), ohce={"request": {}}):
        pass
    both = pytest.raises(TypeError, match="one of config and config_string")
    with both, running(service_of(echo=Echo), {}, config_string=YAML):
        pass


def test_a_config_mapper_of_the_service_is_asked_and_stays():
    class Mapper:
        def process_dict(self, data):
            return Settings(
                {"servers": {"echo": {"request": {"uri": data["where"]}}}, "general": {"greeting": "ahoy "}}
            )

    mapper = Mapper()
    service = Service(config_mapper=mapper)
    service.add_server("echo", Echo)
    with running(service, {"where": "tcp://*:5"}) as it:
        assert ask(it, "echo.request", "you") == "ahoy you"
    loaded = service.load(config_dict={"where": "tcp://127.0.0.1:9"})
    assert loaded.socket_info("echo", "request").uri == "tcp://127.0.0.1:9"


# It dies ----------------------------------------------------------------------------------------------------------


def test_a_service_that_dies_interrupts_the_test_that_waits_and_says_why(coordinator):
    with running(service_of(coordinator, echo=Echo)) as it:
        client = it.socket("echo.request")
        client.send_text("die")
        with pytest.raises(ServiceFailing, match="server 'echo' died") as failure:
            gevent.sleep(60)
        assert isinstance(failure.value.__cause__, ZeroDivisionError)
        assert it.wait_for_failure() is it.failure is failure.value


@pytest.mark.parametrize("caught", [DployError, Exception, BaseException])
def test_a_service_that_dies_fails_the_test_that_expects_another_error(caught):
    def test(it):
        it.socket("echo.request").send_text("die")
        with pytest.raises(caught):
            gevent.sleep(60)

    with pytest.raises(ServiceFailing, match="server 'echo' died") as failure, running(service_of(echo=Echo)) as it:
        test(it)
    assert failure.value is it.failure


def test_a_client_whose_service_dies_says_why():
    with pytest.raises((ServiceFailing, ConnectionLost, RemoteError)) as error, running(service_of(echo=Echo)) as it:
        it.client("echo.request").request("die")
    told = "".join(traceback.format_exception(error.value))
    assert "server 'echo' died" in told
    assert "nobody divides by that" in told


def test_a_service_that_dies_fails_the_test_that_does_not_wait():
    with pytest.raises(ServiceFailing, match="server 'echo' died") as failure, running(service_of(echo=Echo)) as it:
        it.server("echo").spawn(it.server("echo").die)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_a_service_that_is_left_while_it_dies_fails_the_test_too():
    dies = pytest.raises(ServiceFailing, match="server 'echo' died")
    with dies as failure, running(service_of(echo=DiesSlowly)) as it:
        it.server("echo").spawn(it.server("echo").die)
    assert isinstance(failure.value.__cause__, ZeroDivisionError)


def test_a_service_that_dies_while_another_one_is_left_lets_that_one_end():
    inner = service_of(echo=KillsAnother)
    dies = pytest.raises(ServiceFailing, match="server 'echo' died")
    with dies as failure, running(service_of(echo=Echo)) as outer, running(inner, general={"tell": outer}):
        pass
    assert failure.value is outer.failure
    assert inner.state is State.STOPPED


def test_a_server_that_would_have_been_started_again_fails_no_test():
    with running(service_of(echo=Echo), supervision={"echo": {"restart": "on-failure"}}) as it:
        it.server("echo").spawn(it.server("echo").die)


def test_the_error_of_the_test_wins_over_the_failure_of_the_service():
    def test(it):
        it.socket("echo.request").send_text("die")
        try:
            gevent.sleep(60)
        except ServiceFailing:
            raise LookupError("mine") from None

    with pytest.raises(LookupError, match="mine") as mine, running(service_of(echo=Echo)) as it:
        test(it)
    if sys.version_info >= (3, 11):
        assert any("nobody divides by that" in note for note in mine.value.__notes__)


def test_a_failure_that_is_waited_for_is_not_raised():
    with running(service_of(echo=Echo)) as it:
        with pytest.raises(TimeoutError, match="has not failed within 0 s"):
            it.wait_for_failure(0)
        it.socket("echo.request").send_text("die")
        assert isinstance(it.wait_for_failure().__cause__, ZeroDivisionError)


def test_a_failure_of_the_start_is_raised_as_it_is_and_leaves_nothing(ipc_dir):
    with Context.new() as context, context.socket("rep") as taken:
        taken.bind(f"ipc://{ipc_dir}/taken")
        in_use = pytest.raises(AddressInUse, match="server 'echo', socket 'request'")
        with in_use, running(service_of(echo=Echo), echo={"request": {"uri": taken.endpoint}}):
            pass


def test_a_failure_is_raised_in_the_greenlet_that_entered():
    told = []

    def test():
        try:
            with running(service_of(echo=Echo)) as it:
                it.socket("echo.request").send_text("die")
                gevent.sleep(60)
        except ServiceFailing as failure:
            told.append(failure)

    gevent.spawn(test).join(PATIENCE)
    assert len(told) == 1


def test_a_service_that_runs_already_is_an_error_and_goes_on():
    service = service_of(echo=Echo)
    with running(service) as it:
        with pytest.raises(ServiceStateError), running(service):
            pass
        assert ask(it, "echo.request", "hello") == "hello"


@pytest.mark.dploylib_timeout(20)  # less than the 30 s that a stop gives
def test_a_handler_that_hangs_is_ended_when_its_time_is_up():
    with running(service_of(hangs=Hangs), graceful_timeout=0.01) as it:
        it.socket("hangs.request").send_text("hello")
        while not it.server("hangs").counts["request"].received:
            gevent.sleep(0.002)


# It leaves something ----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch):
    """A leak stays a leak: no need to wait for it as long as for a slow machine."""
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.2)


@pytest.fixture
def tidy(leak_check):
    """What was left behind goes before that fixture looks."""
    yield
    for one in Leaks.kept:
        if isinstance(one, int):
            os.close(one)
        else:
            (one.kill if isinstance(one, gevent.Greenlet) else one.close)()
    Leaks.kept.clear()


@pytest.mark.usefixtures("tidy", "impatient")
@pytest.mark.parametrize(
    ("what", "told"),
    [("greenlet", "<Greenlet .*which is at\n"), ("descriptor", "2 x descriptor of pipe:"), ("socket", "<Socket pair")],
)
def test_what_a_service_leaves_behind_fails_the_test(what, told):
    with pytest.raises(LeftBehind, match=told) as error, running(service_of(leaks=Leaks)) as it:
        ask(it, "leaks.request", what)
    assert isinstance(error.value, AssertionError)


@pytest.mark.usefixtures("tidy")
def test_nobody_looks_for_leaks_who_is_told_not_to():
    with running(service_of(leaks=Leaks), check_leaks=False) as it:
        ask(it, "leaks.request", "greenlet")


def test_a_service_that_outlives_a_test_is_no_leak_of_another_one():
    with running(service_of(echo=Echo), check_leaks=False) as outer, running(service_of(echo=Echo)):
        assert ask(outer, "echo.request", "hello") == "hello"


@pytest.mark.usefixtures("tidy")
def test_the_error_of_the_test_wins_over_what_is_left():
    def test(it):
        ask(it, "leaks.request", "greenlet")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"), running(service_of(leaks=Leaks)) as it:
        test(it)


@pytest.mark.usefixtures("tidy", "impatient")
def test_of_services_within_each_other_the_outermost_one_tells_what_is_left():
    told = pytest.raises(LeftBehind, match="<Service of echo, stopped> left behind:\n<Greenlet")
    with told, running(service_of(echo=Echo)) as outer:
        with running(service_of(leaks=Leaks)) as it:
            ask(it, "leaks.request", "greenlet")
        assert ask(outer, "echo.request", "hello") == "hello"


# Secured ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("server", "alice"):
        write_key_pair(name, KeyPair.generate())
    authorize("authorized/", "alice", read_certificate("alice.key").credential)


SECURED = {
    "security": {"secret_key": "server.key_secret", "authorized_keys": "authorized"},
    "servers": {
        "known": {"request": {"uri": "tcp://*:1", "security": {"allow": ["127.0.0.0/8"]}}},
        "open": {"request": {"uri": "tcp://*:2", "security": {"mechanism": "none", "insecure": True}}},
    },
}


def test_a_service_is_secured_as_its_configuration_says(coordinator, keys):
    service = service_of(coordinator, known=KnowsPeers, open=KnowsPeers)
    alice = Security(server_key="server.key", secret_key="alice.key_secret")
    with running(service, SECURED) as it:
        assert it.client("known.request", security=alice).request("").text == "alice"
        assert ask(it, "open.request", "") == "None"


def test_a_test_needs_no_keys(coordinator):
    with running(service_of(coordinator, known=KnowsPeers, open=KnowsPeers), SECURED, security={}) as it:
        assert ask(it, "known.request", "") == ask(it, "open.request", "") == "None"
