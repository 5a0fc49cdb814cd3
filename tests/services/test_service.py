"""A service from its start to its end, and what start refuses."""

import logging

import gevent
import pytest

from dploylib.config import YAMLConfigMapper
from dploylib.errors import (
    AddressInUse,
    ConfigurationError,
    DployError,
    ServiceFailing,
    ServiceStateError,
    SocketClosed,
)
from dploylib.servers import Server, bind, connect, connect_in
from dploylib.services import Service, ServiceTemplate, State
from dploylib.transport import Context, Socket
from tests.services import suite
from tests.services.suite import Dies, Echo, Upper

ANYWHERE = "tcp://127.0.0.1:*"
YAML = """
servers:
  echo:
    request: {uri: "tcp://127.0.0.1:*"}
"""


# What it consists of ---------------------------------------------------------------------------------------------


def test_a_name_can_be_added_once():
    service = Service()
    service.add_server("echo", Echo)
    with pytest.raises(ValueError, match="has a server 'echo' already: Echo"):
        service.add_server("echo", Upper)
    assert service.server_classes == {"echo": Echo}
    assert repr(service) == "<Service of echo, new>"
    assert repr(Service()) == "<Service of no servers, new>"


@pytest.mark.parametrize("wrong", [object, Echo("n", None, None, None), "Echo", None])
def test_only_server_classes_can_be_added(wrong):
    with pytest.raises(TypeError, match=r"server 'echo' must be a subclass of dploylib\.servers\.Server, not"):
        Service().add_server("echo", wrong)


def test_templates_bring_servers_which_give_way_to_those_that_are_added(ask, config_for, leak_check):
    class One(ServiceTemplate):
        servers = {"a": Echo, "b": Echo}

    class Two(ServiceTemplate):
        servers = {"b": Upper, "c": Upper}

    service = Service(templates=[One, Two()])
    service.add_server("c", Echo)
    assert service.server_classes == {"a": Echo, "b": Upper, "c": Echo}
    with service.start(config_dict=config_for(service)):
        assert {name: ask(sockets["request"]) for name, sockets in service.endpoints.items()} == {
            "a": "hello",
            "b": "HELLO",
            "c": "hello",
        }


# Starting --------------------------------------------------------------------------------------------------------


def test_it_starts_from_a_file(make_service, ask, tmp_path):
    (tmp_path / "config.yaml").write_text(YAML)
    for path in (tmp_path / "config.yaml", str(tmp_path / "config.yaml")):
        with make_service(echo=Echo).start(config_file=path) as service:
            assert ask(service.endpoints["echo"]["request"]) == "hello"


def test_it_starts_from_a_string_and_from_a_dict(make_service, ask):
    with make_service(echo=Echo).start(config_string=YAML) as service:
        assert ask(service.endpoints["echo"]["request"]) == "hello"
    with make_service(echo=Echo).start(None, None, {"servers": {"echo": {"request": {"uri": ANYWHERE}}}}) as service:
        assert ask(service.endpoints["echo"]["request"]) == "hello"


def test_overrides_replace_values_by_path(make_service, ask, ipc_dir):
    uri = f"ipc://{ipc_dir}/echo"
    service = make_service(echo=suite.Tells)
    with service.start(config_string=YAML, overrides={"servers.echo.request.uri": uri, "general.a": "5"}):
        assert service.endpoints == {"echo": {"request": uri}}
        assert ask(uri, "a") == "5"


@pytest.mark.parametrize(
    "sources", [{}, {"config_string": YAML, "config_dict": {}}, {"config_file": "x", "config_string": YAML}]
)
def test_exactly_one_source_of_configuration_is_needed(any_service, sources):
    service = any_service(echo=Echo)
    with pytest.raises(TypeError, match="one of config_file, config_string and config_dict"):
        service.start(**sources)
    assert service.state is State.STOPPED
    service.start(config_string=YAML).stop()


def test_a_config_mapper_of_its_own_is_asked(leak_check):
    class Mapper(YAMLConfigMapper):
        def process(self, path, overrides=None):
            return self.process_string(YAML.replace("echo", path))

    service = Service(config_mapper=Mapper())
    service.add_server("other", Echo)
    with service.start(config_file="other"):
        assert list(service.endpoints) == ["other"]


def test_a_service_without_servers_starts_and_stops(make_service):
    with make_service().start(config_dict={"servers": {}}) as service:
        assert service.state is State.RUNNING
        assert service.endpoints == {}


def test_the_table_of_states_says_what_can_be_called_when(make_service):
    service = make_service(echo=Echo)
    assert service.state is State.NEW
    service.stop()  # nothing runs, and nothing happens
    assert service.state is State.NEW
    with pytest.raises(ServiceStateError, match="a service that is new cannot be waited for"):
        service.wait()
    with pytest.raises(ServiceStateError, match="no context before the service is started"):
        service.context  # noqa: B018 - the access is what is tested
    service.start(config_string=YAML)
    assert service.state is State.RUNNING
    with pytest.raises(ServiceStateError, match="a service that is running cannot become starting"):
        service.start(config_string=YAML)
    assert service.state is State.RUNNING
    service.stop()
    assert service.state is State.STOPPED
    service.wait()
    service.stop()
    assert service.state is State.STOPPED
    service.start(config_string=YAML).stop()


def test_it_runs_again_after_it_was_stopped(make_service, ask, ipc_dir):
    service = make_service(counts=suite.Counts)
    config = {"servers": {"counts": {"request": {"uri": f"ipc://{ipc_dir}/counts"}}}}
    for _ in range(3):
        with service.start(config_dict=config):
            assert ask(f"ipc://{ipc_dir}/counts") == "1"  # by a server that is new
        service.wait()


def test_endpoints_are_what_each_socket_is_really_attached_to(make_service):
    service = make_service(a=suite.Mixed)
    config = {
        "request": {"uri": ANYWHERE},
        "feed": {"uri": [ANYWHERE, "inproc://feed"]},
        "work": {"uri": ["tcp://127.0.0.1:9", "inproc://work"]},
    }
    with service.start(config_dict={"servers": {"a": config}}):
        endpoints = service.endpoints["a"]
    assert endpoints["request"].startswith("tcp://127.0.0.1:")
    assert not endpoints["request"].endswith("*")
    assert endpoints["feed"][0].startswith("tcp://127.0.0.1:")
    assert endpoints["feed"][1] == "inproc://feed"
    assert endpoints["work"] == ["tcp://127.0.0.1:9", "inproc://work"]


@pytest.mark.one_process("inproc endpoints are known in one process only")
def test_inproc_clients_use_the_context_of_the_service(make_service, ask):
    service = make_service(echo=Echo)
    with service.start(config_dict={"servers": {"echo": {"request": {"uri": "inproc://echo"}}}}):
        assert ask("inproc://echo", context=service.context) == "hello"
    assert service.context.closed


@pytest.mark.one_process("a process has contexts of its own")
def test_a_context_that_is_given_is_used_and_left_open(start, coordinator, ask):
    with Context.new() as context:
        service = start(coordinator(context=context), echo=Echo)
        assert service.context is context
        assert ask(service.endpoints["echo"]["request"], context=context) == "hello"
        service.stop()
        assert not context.closed
        assert repr(context) == "<Context green, 0 sockets>"


def test_a_request_right_after_the_start_is_answered(make_service, config_for, ask):
    service = make_service(slow=suite.TakesAMoment, echo=Echo)
    for _ in range(3):
        with service.start(config_dict=config_for(service)):
            assert ask(service.endpoints["slow"]["request"]) == "hello"


def test_everything_is_set_up_when_start_returns(start, flags):
    with start(a=suite.SaysWhereItIs, b=suite.SaysWhereItIs) as service:
        assert sorted(flags.events.lines()) == sorted(sockets["out"] for sockets in service.endpoints.values())


def test_the_endpoints_are_logged(start, caplog):
    with caplog.at_level(logging.INFO, "dploylib.services"):
        service = start(echo=Echo)
    assert f"echo.request is at {service.endpoints['echo']['request']}" in caplog.messages


def test_two_services_run_in_one_process(start, ask):
    one, other = start(echo=Echo), start(echo=Upper)
    assert one.context is not other.context
    assert ask(one.endpoints["echo"]["request"]) == "hello"
    assert ask(other.endpoints["echo"]["request"]) == "HELLO"
    one.stop()
    assert ask(other.endpoints["echo"]["request"]) == "HELLO"


def test_servers_of_one_service_can_talk_to_each_other(make_service, ask, ipc_dir):
    assert _ask_through_another_server(make_service, ask, f"ipc://{ipc_dir}/back") == "HELLO"


@pytest.mark.one_process("inproc endpoints are known in one process only")
def test_servers_of_one_service_can_talk_to_each_other_over_inproc(make_service, ask):
    assert _ask_through_another_server(make_service, ask, "inproc://back") == "HELLO"


def _ask_through_another_server(make_service, ask, back):
    service = make_service(front=suite.Front, back=Upper)
    config = {"front": {"request": {"uri": ANYWHERE}, "back": {"uri": back}}, "back": {"request": {"uri": back}}}
    with service.start(config_dict={"servers": config}):
        return ask(service.endpoints["front"]["request"])


# When the start fails --------------------------------------------------------------------------------------------


def test_an_address_in_use_names_server_socket_and_endpoint(make_service, ask):
    with Socket.bind_new("rep", ANYWHERE) as other:
        service = make_service(echo=Echo)
        config = {"servers": {"echo": {"request": {"uri": other.endpoint}}}}
        with pytest.raises(AddressInUse, match="server 'echo', socket 'request': .*" + other.endpoint):
            service.start(config_dict=config)
        assert service.state is State.STOPPED
        assert service.context.closed
    with service.start(config_dict=config):
        assert ask(config["servers"]["echo"]["request"]["uri"]) == "hello"


@pytest.mark.parametrize("error", suite.BrokenOnceOthersRun.errors)
def test_when_one_of_three_servers_fails_none_is_left(
    make_service, config_for, flags, ipc_dir, bind_again, kind, error
):
    expected = suite.BrokenOnceOthersRun.errors[error]()
    for broken in "abc" if kind != "process" else "b":  # each time three interpreters would start
        others = sorted({*"abc"} - {broken})
        service = make_service(**{name: suite.BrokenOnceOthersRun if name == broken else suite.Tidy for name in "abc"})
        sockets = {name: {"request": {"uri": f"ipc://{ipc_dir}/{name}"}} for name in "abc"}
        pickled = kind != "process" or error != "Timeout"
        with pytest.raises((type(expected), DployError)) as caught:
            service.start(config_dict=config_for(service, {"others": others, "error": error}, **sockets))
        raised = caught.value if isinstance(expected, Exception | SystemExit) or not pickled else caught.value.__cause__
        text = str(expected) if pickled else f"Timeout: {expected}"
        assert (type(raised), str(raised)) == (type(expected) if pickled else DployError, text)
        assert sorted(flags.events.lines()) == [f"{name} torn down" for name in others]
        assert service.state is State.STOPPED
        for name in "abc":
            bind_again(f"ipc://{ipc_dir}/{name}")
        flags.clear()


def test_servers_that_still_set_up_are_ended_when_another_fails(make_service, config_for):
    service = make_service(slow=suite.SlowToSetUp, broken=suite.BrokenOnceOthersBegun)
    with pytest.raises(ValueError, match="broken"):
        service.start(config_dict=config_for(service))


def test_a_failed_start_is_raised_and_not_logged_too(start, caplog):
    with pytest.raises(ValueError, match="broken"):
        start(broken=suite.Broken)
    assert caplog.records == []


def test_all_that_is_wrong_with_a_configuration_is_said_at_once(any_service, tmp_path):
    class Feeds(Server):
        out = bind("out", "pub")
        slow = bind("slow", "push")
        work = connect("work", "push")

        @connect_in("orders", "pull")
        def orders(self, socket, received):
            pass

    class Missing(Echo):
        pass

    text = f"""\
servers:
  echo:
    request:
      uri: tcp://127.0.0.1:5000
      options: {{linger: x, sndhmw: 10}}
    reqest: {{uri: "tcp://127.0.0.1:*"}}
  feeds:
    out: {{uri: "tcp://127.0.0.1:5000", concurrency: 5, timeout: 1}}
    work: {{uri: "tcp://127.0.0.1:*"}}
    slow: {{uri: "tcp://127.0.0.1:*", concurrency: 0}}
    orders: {{uri: ["ipc://*", "tcp://*:5000"], options: {{plain_server: maybe}}}}
  other:
    request: {{uri: "ipc://{tmp_path}/nowhere/echo"}}
"""
    (tmp_path / "config.yaml").write_text(text)
    service = any_service(echo=Echo, feeds=Feeds, missing=Missing)
    with pytest.raises(ConfigurationError) as caught:
        service.start(config_file=tmp_path / "config.yaml")
    found = {(problem.path, problem.line, problem.message) for problem in caught.value.problems}
    expected = [
        ("servers.missing", "the service has a server 'missing' that the configuration lacks"),
        ("servers.other", "the configuration has a server 'other' that the service lacks"),
        ("servers.echo.reqest", "the configuration has a socket 'reqest' that server 'echo' lacks; did you mean 'requ"),
        ("servers.echo.request.options.sndhmw", "no socket option 'sndhmw', did you mean 'sndhwm'?"),
        ("servers.echo.request.options.linger", "socket option 'linger' takes an int"),
        ("servers.feeds.slow.concurrency", "found 0 (integer), expected integer >= 1"),
        ("servers.feeds.out.concurrency", "concurrency is for sockets with a handler, and feeds.out has none"),
        ("servers.feeds.out.timeout", "timeout is for sockets with a handler"),
        ("servers.feeds.out.uri", "echo.request is to be bound to tcp://127.0.0.1:5000 too"),
        ("servers.feeds.work.uri", "tcp://127.0.0.1:* has a wildcard, which is for binding"),
        ("servers.feeds.orders.uri", "ipc://* has a wildcard, which is for binding"),
        ("servers.feeds.orders.uri", "tcp://*:5000 has a wildcard, which is for binding"),
        ("servers.feeds.orders.options.plain_server", "socket option 'plain_server' takes an int, not str"),
    ]
    for path, message in expected:
        matching = [one for one in found if one[0] == path and message in one[2]]
        assert matching, f"{path}: {message}\n{caught.value}"
        assert matching[0][1] is not None or path == "servers.missing"
        found -= set(matching)
    assert not found
    assert service.state is State.STOPPED


def test_load_checks_without_binding_anything(any_service, ipc_dir):
    config = {"servers": {"echo": {"request": {"uri": f"ipc://{ipc_dir}/echo"}}}}
    service = any_service(echo=Echo)
    settings = service.load(config_dict=config)
    assert settings.server_names == ["echo"]
    assert service.state is State.NEW
    assert list(ipc_dir.iterdir()) == []
    with pytest.raises(ConfigurationError, match="does not exist"):
        service.load(config_dict={"servers": {"echo": {"request": {"uri": f"ipc://{ipc_dir}/nowhere/echo"}}}})


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("tcp://192.0.2.1:5000", "cannot bind to tcp://192.0.2.1:5000: 192.0.2.1 is no address of this machine"),
        ("tcp://192.0.2.1:*", "192.0.2.1 is no address of this machine"),
        ("tcp://nothere:5000", "cannot bind to tcp://nothere:5000: no such host or network interface"),
        ("udp://127.0.0.1:5000", "a rep socket does not work over udp"),
        ("vmci://1:1", "this libzmq has no vmci transport"),
    ],
)
def test_load_finds_what_cannot_be_bound(any_service, uri, says):
    config = {"servers": {"echo": {"request": {"uri": uri}}}}
    with pytest.raises(ConfigurationError) as caught:
        any_service(echo=Echo).load(config_dict=config)
    assert [(problem.path, says in problem.message) for problem in caught.value.problems] == [
        ("servers.echo.request.uri", True)
    ], caught.value


def test_load_finds_an_ipc_path_that_is_no_socket(any_service, tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    config = {"servers": {"echo": {"request": {"uri": f"ipc://{path}"}}}}
    with pytest.raises(ConfigurationError, match="precious exists, and is no socket"):
        any_service(echo=Echo).load(config_dict=config)
    assert path.read_text() == "data"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("tcp://a_b!:5", "cannot connect to tcp://a_b!:5: this is not the form of such an endpoint"),
        ("vmci://1:1", "this libzmq has no vmci transport"),
    ],
)
def test_load_finds_what_cannot_be_connected_to(any_service, uri, says):
    class Work(Server):
        out = connect("out", "push")

    with pytest.raises(ConfigurationError, match=says):
        any_service(work=Work).load(config_dict={"servers": {"work": {"out": {"uri": uri}}}})


def test_load_takes_no_message_of_a_peer_away(any_service):
    class Work(Server):
        @connect_in("orders", "pull")
        def orders(self, socket, received):
            pass

    push = Socket.bind_new("push", "tcp://127.0.0.1:*")
    sending = gevent.spawn(push.send_text, "only for a receiver that stays", timeout=60)
    service = any_service(work=Work)
    for _ in range(20):
        service.load(config_dict={"servers": {"work": {"orders": {"uri": push.endpoint}}}})
    pull = Socket.connect_new("pull", push.endpoint)
    assert pull.receive_text(timeout=10) == "only for a receiver that stays"
    sending.get(timeout=10)
    pull.close()
    push.close()


def test_an_endpoint_twice_is_found_in_one_list_too(any_service):
    config = {"servers": {"echo": {"request": {"uri": ["tcp://127.0.0.1:5000", "tcp://127.0.0.1:5000"]}}}}
    with pytest.raises(ConfigurationError, match=r"echo\.request is to be bound to tcp://127\.0\.0\.1:5000 too"):
        any_service(echo=Echo).load(config_dict=config)


def test_wildcards_may_be_bound_many_times(any_service, config_for):
    service = any_service(a=Echo, b=Echo, c=Echo)
    for uri in (ANYWHERE, "tcp://127.0.0.1:0", "ipc://*", "tcp://127.0.0.2:*"):
        service.load(config_dict=config_for(service, **{name: {"request": {"uri": uri}} for name in "abc"}))


# Waiting and failing ---------------------------------------------------------------------------------------------


def test_wait_returns_when_the_service_is_stopped(start):
    service = start(echo=Echo)
    waiting = gevent.spawn(service.wait)
    gevent.sleep(0.01)
    assert not waiting.dead
    service.stop()
    waiting.get(timeout=5)


def test_wait_raises_when_a_server_dies(start, ask, flags, caplog):
    service = start(dies=Dies, echo=Echo)
    flags.die.set()
    with pytest.raises(ServiceFailing, match=r"server 'dies' died: .*background raised ValueError: broken") as caught:
        service.wait()
    assert isinstance(caught.value.__cause__, ValueError)
    assert "server dies died" in caplog.text
    # The others go on until somebody stops them, and wait says the same to whoever asks.
    assert ask(service.endpoints["echo"]["request"]) == "hello"
    with pytest.raises(ServiceFailing):
        service.wait()
    service.stop()
    with pytest.raises(ServiceFailing):
        service.wait()


def test_every_waiter_hears_of_a_death(start, flags):
    service = start(dies=Dies)
    waiting = [gevent.spawn(_outcome_of, service) for _ in range(3)]
    gevent.sleep(0.01)
    flags.die.set()
    gevent.joinall(waiting, timeout=5)
    assert [type(waiter.value) for waiter in waiting] == [ServiceFailing] * 3


def _outcome_of(service):
    try:
        return service.wait()
    except ServiceFailing as error:
        return error


def test_a_server_whose_socket_breaks_makes_the_service_fail(start, flags):
    service = start(echo=suite.Breaks)
    flags.die.set()
    with pytest.raises(ServiceFailing, match="server 'echo' died: receiving raised SocketClosed") as caught:
        service.wait()
    assert isinstance(caught.value.__cause__, SocketClosed)


def test_a_server_that_stops_by_itself_makes_the_service_fail(start, flags):
    service = start(echo=suite.Leaves)
    flags.die.set()
    with pytest.raises(ServiceFailing, match=r"server 'echo' ended without being told to$"):
        service.wait()


def test_a_service_can_start_again_after_it_failed(make_service, config_for, flags, ask):
    service = make_service(dies=Dies)
    service.start(config_dict=config_for(service))
    flags.die.set()
    with pytest.raises(ServiceFailing):
        service.wait()
    service.stop()
    flags.clear()
    with service.start(config_dict=config_for(service)):
        assert ask(service.endpoints["dies"]["request"]) == "hello"
    service.wait()


def test_with_stops_the_service_after_an_error_too(make_service):
    service = make_service(echo=Echo)
    with pytest.raises(KeyError), service.start(config_string=YAML):
        raise KeyError
    assert service.state is State.STOPPED


def test_with_may_be_entered_before_the_start(make_service):
    with make_service(echo=Echo) as service:
        service.start(config_string=YAML)
    assert service.state is State.STOPPED
    with make_service(echo=Echo) as service:
        pass
    assert service.state is State.NEW
