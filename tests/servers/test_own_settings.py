"""Settings that a server class declares for itself, and sockets that a configuration may leave out."""

from typing import Annotated

import msgspec
import pytest

from dploylib.config import json_schema
from dploylib.errors import ConfigurationError
from dploylib.servers import Handler, Server, bind, bind_in
from dploylib.services import Service
from dploylib.testing import in_memory, running


class GreeterSettings(msgspec.Struct, frozen=True, kw_only=True):
    greeting: str
    times: Annotated[int, msgspec.Meta(ge=1)] = 1


class Greeter(Server):
    settings_type = GreeterSettings

    @bind_in("request", "rep")
    def greet(self, socket, received):
        return " ".join([self.own.greeting] * self.own.times)

    @bind_in("other", "rep", optional=True)
    def other(self, socket, received):
        return "other"

    out = bind("out", "pub", optional=True)


SOCKETS = {"greeter": {"request": {"uri": "tcp://127.0.0.1:*"}}}


def service_of(cls, name="greeter"):
    service = Service()
    service.add_server(name, cls)
    return service


def problems_of(cls, **config):
    with pytest.raises(ConfigurationError) as failure:
        service_of(cls).load(config_dict=config)
    return [str(problem) for problem in failure.value.problems]


def test_a_server_finds_its_own_settings():
    with running(service_of(Greeter), {"servers": SOCKETS}, settings={"greeter": {"greeting": "hi", "times": 2}}) as it:
        assert it.client("greeter.request").request("").text == "hi hi"


def test_they_are_checked_before_the_start_with_their_place_in_the_file(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "servers:\n  greeter:\n    request: {uri: 'inproc://it'}\nsettings:\n  greeter:\n    tmes: 2\n    times: 0\n"
    )
    with pytest.raises(ConfigurationError) as failure:
        service_of(Greeter).load(config_file=file)
    assert [str(problem).replace(str(file), "FILE") for problem in failure.value.problems] == [
        "FILE:5: settings.greeter: missing key 'greeting' (string)",
        "FILE:6: settings.greeter.tmes: unknown key 'tmes'; did you mean 'times'? (known keys: greeting, times)",
        "FILE:7: settings.greeter.times: found 0 (integer), expected integer >= 1",
    ]


def test_a_placeholder_becomes_the_number_that_it_stands_for(monkeypatch):
    monkeypatch.setenv("TIMES", "3")
    text = (
        "{servers: {greeter: {request: {uri: 'inproc://it'}}}, settings: {greeter: {greeting: a, times: '${TIMES}'}}}"
    )
    settings = service_of(Greeter).load(config_string=text)
    assert settings.server_settings("greeter").own(GreeterSettings).times == 3


def test_what_is_missing_or_superfluous_is_an_error_of_the_configuration():
    assert problems_of(Greeter, servers=SOCKETS) == ["dict: settings.greeter: missing key 'greeting' (string)"]
    assert problems_of(Greeter, servers=SOCKETS, settings={"greeter": {"greeting": "a"}, "greter": {}}) == [
        "dict: settings.greter: the service has no server 'greter'; did you mean 'greeter'? (servers: greeter)"
    ]

    class Plain(Server):
        @bind_in("request", "rep")
        def greet(self, socket, received):
            return ""

    assert problems_of(Plain, servers=SOCKETS, settings={"greeter": {"greeting": "a"}}) == [
        "dict: settings.greeter: server 'greeter' declares no settings of its own"
    ]


def test_a_broken_socket_does_not_hide_what_is_right_with_the_settings():
    found = problems_of(Greeter, servers={"greeter": {"request": {}}}, settings={"greeter": {"greeting": "a"}})
    assert len(found) == 1
    assert "servers.greeter.request" in found[0]


def test_who_declares_none_has_none():
    class Plain(Server):
        pass

    with in_memory(Plain) as it, pytest.raises(TypeError, match="Plain has no settings of its own"):
        _ = it.server.own


def test_the_schema_of_the_configuration_knows_the_section():
    assert json_schema()["$defs"]["Configuration"]["properties"]["settings"]["type"] == ["object", "null"]


def test_an_optional_socket_that_is_not_configured_is_not_there():
    own = {"greeter": {"greeting": "hi"}}
    with running(service_of(Greeter), {"servers": SOCKETS}, settings=own) as it:
        server = it.server("greeter")
        assert list(server.sockets) == ["request"]
        assert "out" not in server.sockets
        assert it.client("greeter.request").request("").text == "hi"


def test_an_optional_socket_that_is_configured_is_there():
    sockets = {"greeter": {**SOCKETS["greeter"], "other": {"uri": "tcp://127.0.0.1:*"}}}
    with running(service_of(Greeter), {"servers": sockets}, settings={"greeter": {"greeting": "hi"}}) as it:
        assert it.client("greeter.other").request("").text == "other"


def test_a_handler_class_can_be_optional():
    class Echo(Handler):
        socket_type = "rep"
        optional = True

        def __call__(self, server, socket, received):
            return received.text

    class Echoing(Server):
        echo = Echo.bind("request")

    service_of(Echoing).load(config_dict={"servers": {"greeter": {}}})
