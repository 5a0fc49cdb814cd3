"""Messages: what they can be made of, in Python and on the wire, and what is said of anything else."""

import copy
import json
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import DployError, InvalidData, InvalidMessage, PeerError, UndecodableData, UnexpectedMimetype
from dploylib.messages import (
    MESSAGES,
    AppBuildRequest,
    AppRelease,
    BroadcastMessage,
    BroadcastOutputData,
    BroadcastStatusData,
    BuildRequest,
    EnvVars,
    ZoneDeployOrder,
    ZoneStopDeploy,
    new_broadcast_id,
)
from dploylib.transport import codecs
from tests.messages.samples import APP_RELEASE, BUILD_REQUEST, COMMIT, ENV_VARS, MESSAGES_OF, VALID, VALID_IDS

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")

JSON, MSGPACK = "application/json", "application/msgpack"

every_message = pytest.mark.parametrize(("message", "data"), VALID, ids=VALID_IDS)


# Round trips -----------------------------------------------------------------------------------------------------


@given(st.one_of(*MESSAGES_OF.values()))
def test_every_message_comes_back_as_it_went(message):
    kind = type(message)
    assert kind.deserialize(message.serialize()) == message
    for mimetype in (JSON, MSGPACK):
        assert kind.from_bytes(message.to_bytes(mimetype), mimetype) == message


def test_all_messages_are_tested():
    assert set(MESSAGES_OF) == set(MESSAGES.values()) == {message for message, _ in VALID}


@every_message
def test_a_message_is_on_the_wire_what_the_reference_says(message, data):
    made = message.deserialize(data)
    assert isinstance(made, message)
    assert made.serialize() == data
    assert json.loads(made.to_bytes()) == data
    assert msgspec.msgpack.decode(made.to_bytes(MSGPACK)) == data


@every_message
def test_serialized_is_plain_data(message, data):
    def types_in(value):
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return {type(value)}.union(*map(types_in, inside))

    assert types_in(message.deserialize(data).serialize()) <= {dict, list, str, int}


@every_message
def test_sockets_send_the_same_as_the_message_itself(message, data):
    made = message.deserialize(data)
    assert codecs.encode(made) == (JSON, made.to_bytes())


@every_message
def test_a_message_is_a_value(message, data):
    made = message.deserialize(data)
    for twin in (message.deserialize(data), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert type(twin) is message
        assert (twin, hash(twin)) == (made, hash(made))


def test_fields_of_newer_peers_are_left_out():
    assert BuildRequest.deserialize({**BUILD_REQUEST, "priority": 7}).serialize() == BUILD_REQUEST
    newer = {**APP_RELEASE, "size": 3}
    request = AppBuildRequest.deserialize({"app_release": newer, "archive_uri": "file:///x"})
    assert request.app_release.serialize() == APP_RELEASE


@pytest.mark.parametrize("mimetype", ["application/json; charset=utf-8", "Application/JSON"])
def test_parameters_and_case_of_a_mimetype_do_not_matter(mimetype):
    assert ZoneStopDeploy.from_bytes(b'{"apps":["shop"]}', mimetype).apps == ("shop",)


@pytest.mark.parametrize("mimetype", ["application/x-msgpack", "application/vnd.msgpack"])
def test_msgpack_has_more_names_than_one(mimetype):
    assert ZoneStopDeploy.from_bytes(b"\x81\xa4apps\x91\xa4shop", mimetype).apps == ("shop",)


def test_a_mimetype_that_no_message_has_is_refused():
    with pytest.raises(ValueError, match="'text/plain': expected application/json or application/msgpack"):
        ZoneStopDeploy(()).to_bytes("text/plain")
    with pytest.raises(UnexpectedMimetype, match="expected application/json or application/msgpack, got 'text/plain'"):
        ZoneStopDeploy.from_bytes(b"{}", "text/plain")


@pytest.mark.parametrize(
    ("data", "mimetype"),
    [
        (b"", JSON),
        (b'{"apps": [1', JSON),  # wrong already, before it breaks off
        (b'{"apps": ["\xff"]}', JSON),
        (b"[" * 100_000, JSON),
        (b"", MSGPACK),
        (b"\x81\xa4apps\x91\xa1\xff", MSGPACK),
    ],
)
def test_what_is_neither_json_nor_msgpack_is_undecodable(data, mimetype):
    with pytest.raises(UndecodableData, match=f"the data is not {mimetype}"):
        ZoneStopDeploy.from_bytes(data, mimetype)


# What is wrong with it -------------------------------------------------------------------------------------------


def without(data, field):
    return {name: value for name, value in data.items() if name != field}


def build(**fields):
    return BuildRequest, {**BUILD_REQUEST, **fields}


def release(**fields):
    return AppRelease, {**APP_RELEASE, **fields}


COMMIT_RULE = "expected a SHA-1 commit: 40 hex digits"
URI_RULE = "expected a URI with a scheme, as in https://example.org/app.tar.gz"
ID_RULE = "expected UUID:COMMIT: a UUID and a SHA-1 commit of 40 hex digits"
VERSION_RULE = "expected an integer from 0 to 2**53 - 1"

WRONG = [
    (*build(commit="abc"), f"$.commit: found 'abc', {COMMIT_RULE}"),
    (*build(commit=COMMIT + "\n"), f"$.commit: found {COMMIT + chr(10)!r}, {COMMIT_RULE}"),
    (*build(commit=None), f"$.commit: found null, {COMMIT_RULE}"),
    (*build(broadcast_id=COMMIT), f"$.broadcast_id: found '{COMMIT}', {ID_RULE}"),
    (*build(archive_uri="shop.tar.gz"), f"$.archive_uri: found 'shop.tar.gz', {URI_RULE}"),
    (*build(archive_uri="x" * 500), f"$.archive_uri: found '{'x' * 56}..., {URI_RULE}"),
    (*build(release_version=-1), f"$.release_version: found -1, {VERSION_RULE}"),
    (*build(release_version=2**53), f"$.release_version: found {2**53}, {VERSION_RULE}"),
    (*build(release_version=1.0), f"$.release_version: found 1.0, {VERSION_RULE}"),
    (*build(release_version=True), f"$.release_version: found true, {VERSION_RULE}"),
    (*build(release_version=10**5000), f"$.release_version: found a number, {VERSION_RULE}"),
    (*build(app=""), "$.app: found '', expected a name: at least one character, none of them NUL"),
    (*build(update_message=["x"]), "$.update_message: found an array, expected a string"),
    (BuildRequest, without(BUILD_REQUEST, "commit"), f"$: the field 'commit' is missing, {COMMIT_RULE}"),
    (BuildRequest, [], "$: found an array, expected an object, BuildRequest"),
    (BuildRequest, "x", "$: found 'x', expected an object, BuildRequest"),
    (*release(version="3"), f"$.version: found '3', {VERSION_RULE}"),
    (*release(processes={"web": None}), "$.processes.web: found null, expected a string without NUL"),
    (*release(processes={"a.b": 1}), "$.processes['a.b']: found 1, expected a string without NUL"),
    (*release(processes={"x" * 500: 1}), f"$.processes['{'x' * 56}...]: found 1, expected a string without NUL"),
    (*release(processes=["web"]), "$.processes: found an array, expected an object"),
    (*release(env={"web": []}), "$.env.web: found an array, expected an object"),
    (
        AppBuildRequest,
        {"app_release": {**APP_RELEASE, "commit": "abc"}, "archive_uri": "file:///x"},
        f"$.app_release.commit: found 'abc', {COMMIT_RULE}",
    ),
    (EnvVars, {"web": {"PORT": 8080}}, "$.web.PORT: found a number, expected a string without NUL"),
    (
        EnvVars,
        {"web": {"A=B": "x"}},
        "$.web: found the key 'A=B', expected the name of a variable: at least one character, none of them = or NUL",
    ),
    (EnvVars, {"": {}}, "$: found the key '', expected a name: at least one character, none of them NUL"),
    (ZoneDeployOrder, {"app": "shop", "cargo_uri": "/x"}, f"$.cargo_uri: found '/x', {URI_RULE}"),
    (
        ZoneStopDeploy,
        {"apps": ["shop", "\0"]},
        r"$.apps[1]: found '\x00', expected a name: at least one character, none of them NUL",
    ),
    (ZoneStopDeploy, {"apps": "shop"}, "$.apps: found 'shop', expected an array"),
    (BroadcastMessage, {"type": "x", "body": {}}, "$.type: found 'x', expected output or status"),
    (BroadcastMessage, {"type": [], "body": {}}, "$.type: found an array, expected output or status"),
    (
        BroadcastMessage,
        {"type": "status"},
        "$: the field 'body' is missing, expected an object, BroadcastStatusData",
    ),
    (
        BroadcastMessage,
        {"type": "output", "body": "x"},
        "$.body: found 'x', expected an object, BroadcastOutputData",
    ),
    (
        BroadcastMessage,
        {"type": "output", "body": {"type": "info"}},
        "$.body.type: found 'info', expected line or raw",
    ),
    (
        BroadcastMessage,
        {"type": "status", "body": {"type": "line"}},
        "$.body.type: found 'line', expected info, error or completed",
    ),
    (BroadcastOutputData, {"type": "raw", "data": 5}, "$.data: found 5, expected a string or null"),
]


@pytest.mark.parametrize(("message", "data", "told"), WRONG, ids=[told[:50] for *_, told in WRONG])
def test_invalid_data_of_a_peer_has_the_path_the_value_and_the_rule(message, data, told):
    with pytest.raises(InvalidData) as caught:
        message.deserialize(data)
    assert str(caught.value) == told
    assert isinstance(caught.value, PeerError)


@pytest.mark.parametrize(("message", "data", "told"), WRONG, ids=[told[:50] for *_, told in WRONG])
def test_invalid_bytes_are_told_in_the_same_words(message, data, told):
    if data != build(release_version=10**5000)[1]:  # neither Python's json nor msgpack write such a number
        for encoded, mimetype in ((json.dumps(data).encode(), JSON), (msgpack_of(data), MSGPACK)):
            with pytest.raises(InvalidData) as caught:
                message.from_bytes(encoded, mimetype)
            assert str(caught.value) == told


def msgpack_of(data):
    return msgspec.msgpack.encode(data)


def test_a_number_beyond_all_bounds_is_invalid_too():
    digits = b"1" * 5000
    with pytest.raises(InvalidData, match="out of range"):
        BuildRequest.from_bytes(json.dumps(BUILD_REQUEST).encode().replace(b": 0}", b": " + digits + b"}"))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: BuildRequest(**build(commit="abc")[1]), f"BuildRequest.commit: found 'abc', {COMMIT_RULE}"),
        (
            lambda: BuildRequest(**build(release_version=-1)[1]),
            f"BuildRequest.release_version: found -1, {VERSION_RULE}",
        ),
        (
            lambda: msgspec.structs.replace(BuildRequest(**BUILD_REQUEST), archive_uri="x"),
            f"BuildRequest.archive_uri: found 'x', {URI_RULE}",
        ),
        (
            lambda: AppRelease(**release(env={"web": {"A": 1}})[1]),
            "AppRelease.env.web.A: found a number, expected a string without NUL",
        ),
        (
            lambda: AppBuildRequest(without(APP_RELEASE, "commit"), "file:///x"),
            f"AppBuildRequest.app_release: the field 'commit' is missing, {COMMIT_RULE}",
        ),
        (lambda: EnvVars({"web": {"A": None}}), "EnvVars.web.A: found null, expected a string without NUL"),
        (lambda: EnvVars(3), "EnvVars: found 3, expected an object"),
        (
            lambda: BroadcastMessage("output", BroadcastStatusData("info")),
            "BroadcastMessage.body: found BroadcastStatusData, expected an object, BroadcastOutputData",
        ),
        (
            lambda: BroadcastMessage("both", BroadcastStatusData("info")),
            "BroadcastMessage.type: found 'both', expected output or status",
        ),
        (
            lambda: BroadcastStatusData("line"),
            "BroadcastStatusData.type: found 'line', expected info, error or completed",
        ),
        (lambda: ZoneStopDeploy("shop"), "ZoneStopDeploy.apps: found 'shop', expected an array"),
        (
            lambda: ZoneDeployOrder(5, "file:///x"),
            "ZoneDeployOrder.app: found 5, expected a name: at least one character, none of them NUL",
        ),
    ],
)
def test_a_message_that_cannot_be_is_never_made(make, told):
    with pytest.raises(InvalidMessage) as caught:
        make()
    assert str(caught.value) == told
    assert isinstance(caught.value, DployError)
    assert not isinstance(caught.value, PeerError)


def test_no_error_and_no_repr_shows_the_value_of_a_variable():
    secret = "hunter2\0"
    with pytest.raises(InvalidMessage) as ours:
        EnvVars({"postgres": {"PASSWORD": secret}})
    with pytest.raises(InvalidData) as theirs:
        AppRelease.deserialize(release(env={"postgres": {"PASSWORD": secret}})[1])
    shown = [str(ours.value), str(theirs.value), repr(AppRelease.deserialize(APP_RELEASE)), repr(EnvVars(ENV_VARS))]
    assert "PASSWORD" in shown[0]
    assert "DATABASE_URL" in shown[2]
    for text in shown:
        assert "hunter2" not in text
        assert "postgresql://db/shop" not in text


# URIs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "https://example.org/app.tar.gz?version=3#top",
        "file:///srv/apps/shop.tar.gz",
        "s3://bucket/key%20with%20spaces",
        "http://user:secret@[2001:db8::1]:8080/x",
        "git+ssh://git@example.org/shop.git",
        "urn:uuid:9b2c1a34-6f0e-4d8a-8c55-0f3d1e7a2b90",
        "HTTP://EXAMPLE.ORG",
    ],
)
def test_a_uri_has_a_scheme(uri):
    assert ZoneDeployOrder("shop", uri).cargo_uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "shop.tar.gz",
        "/srv/shop.tar.gz",
        "//example.org/x",
        "://example.org",
        "1http://example.org",
        "http:",
        "http:\n",
        "http://example.org/a b",
        "http://example.org/\n",
        "http://example.org/ä",
        "http://example.org/100%",
        "http://[::1/x",
        "http://example.org/a[0]",
        "http://example.org/a#b#c",
        "http://example.org/<x>",
        "C:\\apps\\shop.tar.gz",
    ],
)
def test_what_is_no_uri_is_refused(uri):
    with pytest.raises(InvalidMessage, match="expected a URI with a scheme"):
        ZoneDeployOrder("shop", uri)


# Frozen values ---------------------------------------------------------------------------------------------------


def test_a_message_does_not_change():
    made = AppRelease.deserialize(APP_RELEASE)
    with pytest.raises(AttributeError):
        made.commit = "abc"
    for change in (
        lambda: made.env.update(web={}),
        lambda: made.env["web"].__setitem__("PORT", "1"),
        lambda: made.env.pop("web"),
        lambda: made.processes.clear(),
        lambda: made.processes.__ior__({"web": "x"}),
    ):
        with pytest.raises(TypeError, match="does not change"):
            change()
    assert made.serialize() == APP_RELEASE


def test_what_a_message_was_made_of_can_change():
    variables, processes, apps = {"web": {"PORT": "1"}}, {"web": "run"}, ["shop"]
    made = AppRelease(1, "shop", COMMIT, EnvVars(variables), processes)
    stop = ZoneStopDeploy(apps)
    variables["web"]["PORT"] = processes["web"] = "2"
    apps.append("blog")
    assert (made.env, made.processes, stop.apps) == ({"web": {"PORT": "1"}}, {"web": "run"}, ("shop",))


def test_the_variables_of_a_release_are_env_vars_wherever_they_come_from():
    made = [AppRelease(**APP_RELEASE), AppRelease.deserialize(APP_RELEASE)]
    made.append(msgspec.json.decode(made[0].to_bytes(), type=AppRelease))
    assert [type(one.env) for one in made] == [EnvVars] * 3
    assert made[0] == made[1] == made[2]


def test_a_message_can_be_made_of_the_data_of_its_parts():
    request = AppBuildRequest(APP_RELEASE, "file:///x")
    assert request.app_release == AppRelease(**APP_RELEASE)
    assert BroadcastMessage("output", {"type": "line"}) == BroadcastMessage("output", BroadcastOutputData("line"))


def test_a_message_can_be_a_part_of_a_struct_of_ones_own():
    class Mine(msgspec.Struct):
        release: AppRelease
        said: BroadcastMessage

    data = {"release": APP_RELEASE, "said": {"type": "output", "body": {"type": "line"}}}
    mine = msgspec.json.decode(json.dumps(data), type=Mine)
    assert mine.release == AppRelease.deserialize(APP_RELEASE)
    assert mine.said == BroadcastMessage("output", BroadcastOutputData("line"))


def test_a_new_broadcast_id_is_one_and_is_new():
    first, second = new_broadcast_id(COMMIT), new_broadcast_id(COMMIT)
    assert first != second
    for one in (first, second):
        assert BuildRequest(**build(broadcast_id=one)[1]).broadcast_id.endswith(f":{COMMIT}")
