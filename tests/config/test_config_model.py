"""The typed model, `Settings`, and the JSON Schema."""

from __future__ import annotations

import contextlib
import math
import pickle
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.config import Declared, Settings, SocketSettings, json_schema
from dploylib.errors import ConfigurationError, ServerNotInConfiguration, SocketInfoNotInConfiguration

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

URI = "tcp://127.0.0.1:14445"


def a_socket(**values: Any) -> dict[str, Any]:
    return {"servers": {"echo": {"request": {"uri": URI, **values}}}}


def problems_of(data: object) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        Settings(data)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def problem_of(data: object) -> str:
    (problem,) = problems_of(data)
    return problem


def request_of(data: object) -> SocketSettings:
    return Settings(data).socket_info("echo", "request")


# What is accepted ----------------------------------------------------------------------------------------------


def test_a_minimal_socket_has_a_uri_and_defaults():
    assert request_of(a_socket()) == SocketSettings(
        uri=URI, options={}, concurrency=None, timeout=None, max_frames=None
    )


def test_every_key_of_a_socket_is_typed():
    request = request_of(a_socket(options={"sndhwm": 1000}, concurrency=100, timeout=5, max_frames=10))
    assert (request.options, request.concurrency, request.timeout) == ({"sndhwm": 1000}, 100, 5.0)
    assert request.max_frames == 10


def test_uris_is_a_list_whichever_way_they_are_written():
    assert request_of(a_socket()).uris == [URI]
    assert request_of(a_socket(uri=["inproc://a", "inproc://b"])).uris == ["inproc://a", "inproc://b"]


def test_option_pairs_keep_their_order_whichever_way_they_are_written():
    pairs = [("subscribe", "a"), ("subscribe", "b"), ("linger", 0)]
    assert request_of(a_socket(options=[list(pair) for pair in pairs])).option_pairs == pairs
    assert request_of(a_socket(options=pairs)).option_pairs == pairs
    assert request_of(a_socket(options={"rcvhwm": 1, "linger": 0})).option_pairs == [("rcvhwm", 1), ("linger", 0)]


@pytest.mark.parametrize("general", [{}, {"general": None}])
def test_general_may_be_absent_or_null(general):
    assert Settings(a_socket() | general).configuration.general == {}


def test_options_and_a_server_may_be_null():
    assert request_of(a_socket(options=None)).option_pairs == []
    assert Settings({"servers": {"echo": None}}).server_info("echo") == {}


def test_general_is_not_looked_into():
    general = {"when": object(), "nested": {1: math.nan}}
    assert Settings(a_socket() | {"general": general}).configuration.general == general


def test_the_dict_of_the_caller_is_neither_changed_nor_needed_afterwards():
    data = a_socket(options=None) | {"general": {"a": 1}}
    settings = Settings(data)
    assert data == a_socket(options=None) | {"general": {"a": 1}}
    data["servers"].clear()
    data["general"].clear()
    assert settings.server_names == ["echo"]
    assert settings.get("a") == 1


def test_settings_survive_a_way_to_another_process():
    settings = pickle.loads(pickle.dumps(Settings(a_socket(timeout=2))))
    assert settings.configuration == Settings(a_socket(timeout=2)).configuration


# What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"concurrency": True}, "concurrency: found true (boolean), expected integer >= 1"),
        ({"concurrency": 0}, "concurrency: found 0 (integer), expected integer >= 1"),
        ({"concurrency": 1.5}, "concurrency: found 1.5 (number), expected integer >= 1"),
        ({"concurrency": "10"}, "concurrency: found '10' (string), expected integer >= 1"),
        ({"max_frames": 2}, "max_frames: found 2 (integer), expected integer >= 3 and <= 256"),
        ({"max_frames": 257}, "max_frames: found 257 (integer), expected integer >= 3 and <= 256"),
        ({"timeout": 0}, "timeout: found 0 (integer), expected finite number > 0"),
        ({"timeout": False}, "timeout: found false (boolean), expected finite number > 0"),
        ({"timeout": math.nan}, "timeout: found nan (number), expected finite number > 0"),
        ({"timeout": math.inf}, "timeout: found inf (number), expected finite number > 0"),
        ({"options": "linger"}, "options: found string, expected mapping or list"),
        ({"options": {"linger": None}}, "found null, expected string, integer, boolean or finite number"),
        ({"options": [["linger"]]}, "options.0: found a list of 1, expected a list of 2"),
        ({"options": ["linger"]}, "options.0: found string, expected list"),
        ({"uri": []}, "uri: found a list of 0, expected at least 1"),
        ({"uri": None}, "uri: found null, expected string or list"),
        ({"uri": {"tcp": 1}}, "uri: found mapping, expected string or list"),
        ({"uri": ["inproc://a", True]}, "uri.1: found true (boolean), expected string"),
        ({"timeout": "a" * 1000}, f"timeout: found '{'a' * 56}... (string), expected finite number > 0"),
        (
            {"urii": 1},
            "unknown key 'urii'; did you mean 'uri'? (known keys: uri, options, concurrency, timeout, overload, "
            "max_frames, idempotent, security)",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(values, message):
    assert message in problem_of(a_socket(**values))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"servers": {"echo": {"request": None}}}, "servers.echo.request: missing key 'uri' (string or list)"),
        ({"general": {}}, ": missing key 'servers' (mapping)"),
        ({"servers": []}, "servers: found list, expected mapping"),
        ([], ": found list, expected mapping (servers, supervision, security, daemon, monitoring, settings, general)"),
        ({"servers": {}, "Genral": 1}, "Genral: unknown key 'Genral'; did you mean 'general'?"),
        ({"servers": {}, "general": {1: 2}}, 'general.1: a key has to be a string, found 1 (integer); quote it: "1"'),
        ({"servers": {True: {}}}, "YAML reads on, off, yes and no as booleans"),
    ],
)
def test_a_wrong_shape_is_named_with_its_path(data, problem):
    assert problem in problem_of(data)


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "a b", "a\n", "\x00", "\x85", "\u2028"])
def test_names_of_servers_and_sockets_are_plain(name):
    assert "a name has at least one character" in problem_of({"servers": {name: {}}})
    assert "a name has at least one character" in problem_of({"servers": {"echo": {name: {"uri": URI}}}})


def test_the_name_of_a_service_has_no_control_characters():
    assert "daemon.name: found 'a\\x1b[31m' (string), a name has no control characters" in problem_of(
        {"servers": {}, "daemon": {"name": "a\x1b[31m"}}
    )
    assert Settings({"servers": {}, "daemon": {"name": "the échos"}}).service == "the échos"


def test_all_problems_are_reported_at_once():
    data = {"servers": {"a": {"x": {"concurrency": 0}}, "b c": {"y": {"uri": URI, "timeot": 1}}}, "other": 1}
    assert len(problems_of(data)) == 5


def test_a_problem_with_a_raw_dict_has_the_source_dict_and_no_line():
    with pytest.raises(ConfigurationError, match=r"^dict: servers\.echo\.request\.concurrency: found 0"):
        Settings(a_socket(concurrency=0))


def test_a_name_with_a_line_break_does_not_break_the_error():
    assert "\n" not in problem_of({"servers": {"a\nb": {}}})


@pytest.mark.parametrize(
    "options", [{"curve_secretkey": ["hunter2"]}, [["plain_password", ["hunter2"]]], [[["hunter2"], 1]]]
)
def test_secrets_in_containers_are_not_printed(options):
    assert "hunter2" not in problem_of(a_socket(options=options))


@pytest.mark.parametrize("options", [{"plain_password": math.inf}, [["plain_password", math.inf]]])
def test_a_secret_is_printed_as_stars(options):
    assert "found *** (number)" in problem_of(a_socket(options=options))


def test_a_server_may_be_called_token_and_still_get_helpful_errors():
    assert "found 'x' (string)" in problem_of({"servers": {"tokens": {"keys": {"uri": "x"}}}})


def test_an_object_whose_repr_fails_is_still_a_plain_problem():
    class Nameless:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "found Nameless, expected string or list" in problem_of(a_socket(uri=Nameless()))
    assert "a key has to be a string, found Nameless" in problem_of({"servers": {Nameless(): {}}})


# Endpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "tcp://127.0.0.1:5000",
        "tcp://*:*",
        "tcp://eth0:0",
        "tcp://[::1]:5000",
        "tcp://[fe80::1%eth0]:65535",
        "tcp://192.168.1.17:0;server.example:5555",
        "ipc:///tmp/a socket",
        "ipc://*",
        "ipc://@abstract",
        "ipc://" + "a" * 107,
        "inproc://x",
        "ws://127.0.0.1:80/path",
        "udp://239.0.0.1:7000",
        "epgm://eth0;239.192.1.1:5555",
    ],
)
def test_endpoints_of_stable_transports_are_accepted(uri):
    assert request_of(a_socket(uri=uri)).uris == [uri]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("127.0.0.1:5000", "did you mean 'tcp://127.0.0.1:5000'?"),
        ("localhost", "expected a transport at the start, as in tcp://127.0.0.1:5000"),
        ("5000", "tcp://127.0.0.1:5000, or tcp://*:5000 to bind to all interfaces"),
        (5000, "found 5000 (integer), a port needs a transport and a host: tcp://127.0.0.1:5000"),
        (-1, "found -1 (integer), expected string or list"),
        ("tpc://a:1", "unknown transport; did you mean 'tipc' or 'tcp'? (known transports: tcp, ipc,"),
        ("http://a:1", "unknown transport"),
        ("TCP://a:1", "did you mean 'tcp'"),
        ("tcp://", "expected an address after tcp://"),
        ("inproc://", "expected an address after inproc://"),
        ("ipc://", "expected an address after ipc://"),
        ("tcp://host", "expected tcp://HOST:PORT"),
        ("tcp://:5000", "expected tcp://HOST:PORT"),
        ("tcp://a b:5000", "expected tcp://HOST:PORT"),
        ("tcp://host:", "expected a port from 0 to 65535"),
        ("tcp://host:65536", "expected a port from 0 to 65535"),
        ("tcp://host:http", "expected a port from 0 to 65535"),
        ("tcp://host:-1", "expected a port from 0 to 65535"),
        ("tcp://host:٣", "expected a port from 0 to 65535"),
        ("tcp://a:1;b:2;c:3", "at most one ';'"),
        ("tcp://a;b:2", "expected tcp://HOST:PORT"),
        ("ipc://" + "é" * 54, "an ipc path has at most 107 bytes, this one has 108"),
        ("", "expected a transport at the start"),
    ],
)
def test_a_malformed_endpoint_says_how_to_mend_it(uri, message):
    assert message in problem_of(a_socket(uri=uri))


# Settings ------------------------------------------------------------------------------------------------------

SETTINGS = Settings(a_socket() | {"general": {"queue": "builds", "empty": None}})


def test_get_reads_general():
    assert SETTINGS.get("queue") == "builds"
    assert SETTINGS.get("missing", 3) == 3
    assert SETTINGS.get("missing", None) is None
    assert SETTINGS.get("empty", 3) is None


def test_get_without_a_default_says_what_there_is():
    with pytest.raises(KeyError, match=r"no 'queu' in the section 'general'; did you mean 'queue'\?"):
        SETTINGS.get("queu")


def test_an_unknown_server_or_socket_names_the_nearest():
    with pytest.raises(ServerNotInConfiguration, match=r"'ecko'.*did you mean 'echo'\? \(servers: echo\)"):
        SETTINGS.server_info("ecko")
    with pytest.raises(ServerNotInConfiguration):
        SETTINGS.server_settings("ecko")
    with pytest.raises(SocketInfoNotInConfiguration, match=r"'reqest' of server 'echo'.*\(sockets: request\)"):
        SETTINGS.socket_info("echo", "reqest")


def test_server_settings_see_their_own_sockets_and_general():
    echo = SETTINGS.server_settings("echo")
    assert (echo.name, echo.socket_names) == ("echo", ["request"])
    assert echo.socket_info("request").uri == URI
    assert echo.get("queue") == "builds"
    assert echo.get("missing", 1) == 1
    with pytest.raises(SocketInfoNotInConfiguration):
        echo.socket_info("other")


# What the service declares -------------------------------------------------------------------------------------


def test_a_configuration_that_fits_the_service_has_no_problems():
    assert SETTINGS.check_declared({"echo": Declared(["request"])}) == []


def test_servers_that_only_one_side_has_are_problems_of_both_names():
    missing, superfluous = SETTINGS.check_declared({"ecko": Declared(["request"])})
    assert missing.path == "servers.ecko"
    assert missing.message == (
        "the service has a server 'ecko' that the configuration lacks; did you mean 'echo'? (configured servers: echo)"
    )
    assert superfluous.path == "servers.echo"
    assert "a server 'echo' that the service lacks; did you mean 'ecko'?" in superfluous.message


def test_sockets_that_only_one_side_has_are_problems_of_both_names():
    missing, superfluous = SETTINGS.check_declared({"echo": Declared(["reqest"])})
    assert missing.path == "servers.echo.reqest"
    assert "server 'echo' has a socket 'reqest' that the configuration lacks; did you mean" in missing.message
    assert superfluous.path == "servers.echo.request"
    assert "a socket 'request' that server 'echo' lacks; did you mean 'reqest'?" in superfluous.message


def test_nothing_near_means_no_guess():
    missing, _ = SETTINGS.check_declared({"echo": Declared([])}) + SETTINGS.check_declared(
        {"echo": Declared(["request"]), "zzz": Declared([])}
    )
    assert "did you mean" not in missing.message


# JSON Schema ---------------------------------------------------------------------------------------------------

SCHEMA = jsonschema.Draft202012Validator(json_schema())


def test_the_schema_is_a_valid_one_and_describes_every_key():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for definition in json_schema()["$defs"].values():
        assert definition["description"]
        assert all(field["description"] for field in definition["properties"].values())


@pytest.mark.parametrize(
    "data",
    [
        a_socket(),
        a_socket(options={"sndhwm": 1000}, concurrency=100, timeout=0.5, max_frames=256),
        a_socket(uri=["inproc://a", "ipc:///b"], options=[["subscribe", "a"], ["linger", 0]]),
        a_socket(uri="${URI}", concurrency="${N:-10}", timeout="${T:-1}", options=None),
        {"servers": {"echo": None}, "general": None},
        {"servers": {}, "general": {"a": [1, {"b": None}]}},
    ],
)
def test_the_schema_accepts_good_configurations(data):
    SCHEMA.validate(data)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"servers": {"echo": {"request": {}}}},
        {"servers": {"a.b": {}}},
        {"servers": {}, "genral": {}},
        a_socket(uri=[]),
        a_socket(uri="127.0.0.1:5000"),
        a_socket(urii="x"),
        a_socket(concurrency=0),
        a_socket(max_frames=2),
        a_socket(max_frames=257),
        a_socket(concurrency="10"),
        a_socket(timeout=0),
        a_socket(options={"linger": None}),
        a_socket(options=[["linger"]]),
    ],
)
def test_the_schema_and_settings_refuse_the_same_bad_configurations(data):
    assert not SCHEMA.is_valid(data)
    problems_of(data)


# Any data at all -----------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates()
keys = st.sampled_from(["servers", "general", "echo", "uri", "options", "concurrency", "timeout"]) | scalars
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=30)
sockets = st.fixed_dictionaries(
    {"uri": st.sampled_from([URI, [URI, "inproc://x"]]) | values},
    optional={"options": values, "concurrency": st.integers() | values, "timeout": st.floats() | values},
)
names = st.sampled_from(["echo", "queue"]) | st.text()
shaped = st.fixed_dictionaries({"servers": st.dictionaries(names, st.dictionaries(names, sockets, max_size=2))})


@given(values | shaped)
def test_any_data_is_settings_or_a_configuration_error(data):
    with contextlib.suppress(ConfigurationError):
        Settings(data)


@given(shaped)
def test_whatever_settings_accept_the_schema_accepts(data):
    try:
        Settings(data)
    except ConfigurationError:
        return
    SCHEMA.validate(data)


def test_an_error_of_a_configuration_can_be_pickled():
    with pytest.raises(ConfigurationError) as caught:
        Settings({"servers": {"echo": {"request": {"uri": "tcp://*:0"}, "broken": {}}}})
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problems) == (str(caught.value), caught.value.problems)
    assert copy.usable.socket_info("echo", "request").uri == "tcp://*:0"
