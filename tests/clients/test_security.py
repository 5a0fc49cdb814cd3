"""Clients that prove who they are, and what they are told when server and client do not agree."""

from __future__ import annotations

import logging
import os
import pickle
import socket as network
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import pytest
from gevent.server import StreamServer

from dploylib.clients import ListeningClient, ObservableServiceClient, PushClient, RequestClient
from dploylib.clients.retrying import Circuit
from dploylib.connecting import backoff
from dploylib.connecting.diagnosis import mechanism_at
from dploylib.connecting.hello import has_key
from dploylib.errors import (
    ConnectionLost,
    HandshakeFailed,
    MechanismMismatch,
    NotAuthorized,
    RequestTimeout,
    SecurityError,
    WrongServerKey,
)
from dploylib.security import Credentials, KeyPair, Security, fingerprint, write_key_pair
from dploylib.transport import Context
from tests.clients.secured import NEWS, PATIENCE, Interrupting, Secured, User, plain, starting

pytestmark = pytest.mark.usefixtures("leak_check")

TIMEOUT = 30.0  # seconds; nothing here takes so long, so what is raised came before
USER = User("ann", "correct horse battery staple")
SERVER, OTHER_SERVER, CLIENT, STRANGER = (KeyPair.generate() for _ in range(4))
SECRETS = [
    USER.password,
    "wrong-password",
    *(pair.secret.decode() for pair in (SERVER, OTHER_SERVER, CLIENT, STRANGER)),
]


@pytest.fixture(autouse=True)
def no_secret_is_logged(caplog) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for secret in SECRETS:
        assert secret not in caplog.text


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A directory with the keys of everybody in it."""
    directory = tmp_path_factory.mktemp("keys")
    for name, pair in {"server": SERVER, "other": OTHER_SERVER, "client": CLIENT, "stranger": STRANGER}.items():
        write_key_pair(directory / name, pair)
    return directory


@pytest.fixture
def curve(files) -> Callable[..., Security]:
    """`curve("client", "server")`: settings of a client with this key for a server with this one, or these."""

    def security(own: str | None, *servers: str) -> Security:
        keys = [str(files / f"{name}.key") for name in servers]
        return Security(server_key=keys, secret_key=own and str(files / f"{own}.key_secret"))

    return security


@pytest.fixture
def secured(leak_check) -> Iterator[Callable[..., Secured]]:
    """`secured("router", pair=SERVER)`: a server that is closed with the test."""
    with starting() as start:
        yield start


class Way(NamedTuple):
    """How a kind of client talks to a kind of server. `use` returns when it has."""

    kind: str
    client: Any
    use: Callable[[Any, Secured], None]


def ask(client: RequestClient, server: Secured) -> None:
    assert client.request("x", timeout=TIMEOUT).text == "x"


def listen(client: ListeningClient, server: Secured) -> None:
    assert client.receive(timeout=TIMEOUT).text == NEWS[-1].decode()


def push(client: PushClient, server: Secured) -> None:
    client.push("x", timeout=TIMEOUT)
    with gevent.Timeout(PATIENCE, AssertionError("what was pushed does not arrive")):
        while b"x" not in server.pulled:
            gevent.sleep(0.002)


WAYS = [Way("router", RequestClient, ask), Way("pub", ListeningClient, listen), Way("pull", PushClient, push)]
each_way = pytest.mark.parametrize("way", WAYS, ids=["request", "listen", "push"])


def settings_of(mechanism: str) -> dict[str, Any]:
    """Those of a server with this mechanism, which lets in whoever is to be let in."""
    return {
        "CURVE": {"pair": SERVER, "authorized": {CLIENT.public}},
        "PLAIN": {"users": {USER}},
        "NULL": {},
    }[mechanism]


# Who gets through ----------------------------------------------------------------------------------------------------

CLIENTS: dict[str, Callable[[Any], Security | None]] = {
    "nothing": lambda curve: None,
    "its key": lambda curve: curve("client", "server"),
    "a key that is not authorized": lambda curve: curve("stranger", "server"),
    "no key of its own": lambda curve: curve(None, "server"),
    "a wrong server key": lambda curve: curve("client", "other"),
    "its password": lambda curve: plain(USER),
    "a wrong password": lambda curve: plain(User(USER.name, "wrong-password")),
}
OUTCOMES: dict[str, dict[str, type[HandshakeFailed] | None]] = {
    "CURVE": {
        "nothing": MechanismMismatch,
        "its key": None,
        "a key that is not authorized": NotAuthorized,
        "no key of its own": NotAuthorized,
        "a wrong server key": WrongServerKey,
        "its password": MechanismMismatch,
        "a wrong password": MechanismMismatch,
    },
    "PLAIN": {
        **dict.fromkeys(CLIENTS, MechanismMismatch),
        "its password": None,
        "a wrong password": NotAuthorized,
    },
    "NULL": {**dict.fromkeys(CLIENTS, MechanismMismatch), "nothing": None},
}


@each_way
@pytest.mark.parametrize("mechanism", OUTCOMES)
@pytest.mark.parametrize("client_has", CLIENTS)
def test_who_is_right_gets_through_and_everybody_else_is_told_at_once(secured, curve, way, mechanism, client_has):
    server = secured(way.kind, **settings_of(mechanism))
    expected = OUTCOMES[mechanism][client_has]
    with way.client(server.endpoint, security=CLIENTS[client_has](curve)) as client:
        if expected is None:
            way.use(client, server)
            client.wait_connected(TIMEOUT)
            return
        for wait in (lambda: way.use(client, server), lambda: client.wait_connected(TIMEOUT)):
            with pytest.raises(HandshakeFailed) as raised:
                wait()
            error = raised.value
            assert type(error) is expected
            assert error.endpoint == server.endpoint
            assert 0 <= error.elapsed < TIMEOUT
            copy = pickle.loads(pickle.dumps(error))
            assert (type(copy), str(copy), copy.known) == (expected, str(error), error.known)
            for secret in SECRETS:
                assert secret not in f"{error} {error!r} {client!r} {vars(error)}"
        assert not client.connected
        assert not server.pulled


@pytest.mark.parametrize(
    ("mechanism", "client_has", "known"),
    [
        ("CURVE", "nothing", "the server wants CURVE, and this client has no key: give security=Security(server_key="),
        (
            "CURVE",
            "its password",
            "the server wants CURVE, and this client has a user name and a password (PLAIN): give",
        ),
        ("PLAIN", "nothing", "the server wants PLAIN, and this client has no user name and password: give security="),
        ("PLAIN", "its key", "the server wants PLAIN, and this client has a server key (CURVE): give security="),
        ("NULL", "its key", "the server speaks no CURVE: it is open (NULL), and this client has a server key (CURVE)"),
        (
            "NULL",
            "its password",
            "the server speaks no PLAIN: it is open (NULL), and this client has a user name and a",
        ),
        (
            "CURVE",
            "a key that is not authorized",
            f"the server does not let this client in with its key {fingerprint(STRANGER.public)}: authorize that on",
        ),
        ("CURVE", "no key of its own", "the server does not let this client in: it wants an authorized key, and this"),
        (
            "CURVE",
            "a wrong server key",
            "the server does not have the key that was expected (server_key), "
            f"{fingerprint(OTHER_SERVER.public)}: it is another server",
        ),
        ("PLAIN", "a wrong password", "the server does not let this client in as user 'ann': the user name or the"),
    ],
)
def test_the_error_says_what_each_side_has_and_what_to_do(secured, curve, mechanism, client_has, known):
    server = secured("router", **settings_of(mechanism))
    with RequestClient(server.endpoint, security=CLIENTS[client_has](curve)) as client:
        with pytest.raises(HandshakeFailed) as raised:
            client.request("x", timeout=TIMEOUT)
        assert raised.value.known.startswith(known)
        assert str(raised.value) == f"{server.endpoint}: {raised.value.known}"
        assert client.endpoints[server.endpoint].connection == "handshake failed"


def test_an_address_that_may_not_connect_is_told(secured):
    server = secured("router", denies=True)
    with RequestClient(server.endpoint) as client, pytest.raises(NotAuthorized, match="address of this machine"):
        client.request("x", timeout=TIMEOUT)


@pytest.mark.parametrize("mechanism", OUTCOMES)
def test_ipc_endpoints_are_told_likewise(secured, curve, ipc_dir, mechanism):
    server = secured("router", f"ipc://{ipc_dir}/server", **settings_of(mechanism))
    assert mechanism_at(server.endpoint) == mechanism
    expected = WrongServerKey if mechanism == "CURVE" else MechanismMismatch
    with RequestClient(server.endpoint, security=curve("client", "other")) as client, pytest.raises(expected):
        client.request("x", timeout=TIMEOUT)
    server.close()
    os.unlink(server.endpoint.removeprefix("ipc://"))  # libzmq leaves it


# Who waits already ---------------------------------------------------------------------------------------------------


def test_everybody_who_waits_is_told(secured, spawn):
    server = secured("router", **settings_of("CURVE"))
    with RequestClient(server.endpoint) as client:
        calls = [spawn(client.request, "x", timeout=TIMEOUT) for _ in range(50)]
        gevent.joinall(calls, timeout=PATIENCE)
        assert {type(call.exception) for call in calls} == {MechanismMismatch}


def test_a_subscriber_that_is_not_let_in_any_more_is_told_while_it_waits(secured, curve, spawn, wait_until):
    server = secured("pub", **settings_of("CURVE"))
    with ListeningClient(server.endpoint, "nothing like it", security=curve("client", "server")) as client:
        client.wait_connected()
        waiting = [spawn(client.receive) for _ in range(3)]
        iterating = spawn(next, iter(client))
        server.close()
        secured("pub", server.endpoint, pair=SERVER)
        gevent.joinall([*waiting, iterating], timeout=PATIENCE)
        assert {type(one.exception) for one in (*waiting, iterating)} == {NotAuthorized}


def test_what_came_before_is_received_first(secured, curve, wait_until):
    server = secured("pub", **settings_of("CURVE"))
    with ListeningClient(server.endpoint, security=curve("client", "server")) as client:
        client.receive(timeout=TIMEOUT)
        wait_until(client._socket.has_input)
        server.close()
        secured("pub", server.endpoint, pair=SERVER)
        wait_until(lambda: client.state.startswith("the server does not let this client in"))
        received = []
        with pytest.raises(NotAuthorized):
            received.extend(client)
        assert {one.data for one in received} == {NEWS[-1]}


def test_a_request_that_was_sent_is_lost_with_its_connection_and_not_said_to_be_refused(secured, curve, spawn):
    """It may have been handled, whatever the server says later."""
    server = secured("router", **settings_of("CURVE"))
    with RequestClient(server.endpoint, security=curve("client", "server")) as client:
        client.request("x", timeout=TIMEOUT)
        gevent.killall(server._greenlets[1:])  # it answers no more
        call = spawn(client.request, "x", timeout=TIMEOUT, idempotent=True)
        server.socket.poll(PATIENCE * 1000)
        server.close()
        secured("router", server.endpoint, pair=SERVER)
        call.join(PATIENCE)
        assert type(call.exception) is ConnectionLost
        with pytest.raises(NotAuthorized):
            client.request("x", timeout=TIMEOUT)


# Nothing is for ever -------------------------------------------------------------------------------------------------


@each_way
def test_a_client_that_is_authorized_afterwards_gets_in(secured, curve, way):
    server = secured(way.kind, pair=SERVER)
    with way.client(server.endpoint, security=curve("client", "server")) as client:
        for _ in range(20):  # also while the next try is under way
            with pytest.raises(NotAuthorized):
                way.use(client, server)
            gevent.sleep(0.005)
        server.authorized.add(CLIENT.public)
        use_when_refused_no_more(way, client, server)
        client.wait_connected(TIMEOUT)


@each_way
@pytest.mark.parametrize("first", ["another key", "open"])
def test_a_server_that_is_restarted_with_the_right_key_is_talked_to(secured, curve, way, first):
    server = secured(way.kind, pair=OTHER_SERVER if first == "another key" else None)
    with way.client(server.endpoint, security=curve("client", "server")) as client:
        with pytest.raises(WrongServerKey if first == "another key" else MechanismMismatch):
            way.use(client, server)
        server.close()
        server = secured(way.kind, server.endpoint, **settings_of("CURVE"))
        use_when_refused_no_more(way, client, server)


def use_when_refused_no_more(way: Way, client: Any, server: Secured) -> None:
    with gevent.Timeout(PATIENCE, AssertionError("it is refused for ever")):
        while True:
            try:
                return way.use(client, server)
            except HandshakeFailed:
                gevent.sleep(0.005)


@each_way
def test_a_server_that_is_gone_is_waited_for_whatever_it_said_before(secured, curve, way, spawn, wait_until):
    server = secured(way.kind, pair=SERVER)
    with way.client(server.endpoint, security=curve("client", "server")) as client:
        with pytest.raises(NotAuthorized):
            way.use(client, server)
        server.close()
        wait_until(lambda: connection_of(client).handshakes.refusal is None)
        server = secured(way.kind, server.endpoint, **settings_of("CURVE"))
        way.use(client, server)


def connection_of(client: Any) -> Any:
    """What a client with one endpoint keeps of that."""
    if isinstance(client, RequestClient):
        return client._connections[0]
    return client._endpoint if isinstance(client, ListeningClient) else client._peers[0].endpoint


# Other reasons why a handshake fails ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["CURVE", "PLAIN"])
def test_a_socket_of_another_type_has_the_right_key_all_the_same(secured, curve, mechanism):
    """libzmq says nothing else of it than of a wrong key."""
    server = secured("pub", **settings_of(mechanism))
    security = curve("client", "server") if mechanism == "CURVE" else plain(USER)
    with RequestClient(server.endpoint, security=security) as client, pytest.raises(RequestTimeout) as raised:
        client.request("x", timeout=1)
    assert raised.value.known.startswith("something listens there, but")


def test_a_server_that_is_interrupted_in_handshakes_is_not_taken_for_another_one(secured, curve):
    server = secured("router", **settings_of("CURVE"))
    between = Interrupting(server.endpoint)
    try:
        with RequestClient(between.endpoint, security=curve("client", "server")) as client:
            for between.interruptions in (0, 1, 2, 3):  # each try has two: the second asks for the key
                between.break_all()
                while True:
                    try:
                        ask(client, server)
                        break
                    except ConnectionLost:  # it was sent before the connection was known to be broken
                        pass
                assert between.interruptions == 0
    finally:
        between.close()


@pytest.mark.parametrize(("hears", "expected"), [(64, None), (64 + 202, False)], ids=["greeting", "hello"])
def test_who_hangs_up_before_it_has_heard_of_a_key_does_not_lack_it(curve, hears, expected):
    """A server with too many connections does so."""

    def handle(connection: Any, _: Any) -> None:
        connection.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + b"\x01" + bytes(31))
        heard = b""
        while len(heard) < hears and (more := connection.recv(1000)):
            heard += more
        connection.close()

    server = StreamServer(("127.0.0.1", 0), handle)
    server.start()
    endpoint = f"tcp://127.0.0.1:{server.server_port}"
    error, timeout = (RequestTimeout, 2) if expected is None else (WrongServerKey, TIMEOUT)
    try:
        with Context.new() as context:
            assert has_key(endpoint, context, Credentials(curve("client", "server"))) is expected
        with RequestClient(endpoint, security=curve("client", "server")) as client, pytest.raises(error):
            client.request("x", timeout=timeout)
    finally:
        server.stop(timeout=PATIENCE)


def test_who_speaks_no_zeromq_is_no_server_of_another_mechanism(curve):
    with network.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        assert mechanism_at(endpoint) == ""
        client = RequestClient(endpoint, options={"handshake_ivl": 50}, security=curve("client", "server"))
        with client, pytest.raises(RequestTimeout, match="something listens there"):
            client.request("x", timeout=1)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:1", "ipc:///nowhere/at/all", "udp://127.0.0.1:1", "tcp://*:*"])
def test_of_nobody_there_nothing_is_known(curve, endpoint):
    assert mechanism_at(endpoint) == ""
    with Context.new() as context:
        assert has_key(endpoint, context, Credentials(curve("client", "server"))) is None


def test_keys_that_are_options_of_the_socket_are_not_taken_for_none(secured):
    server = secured("router", **settings_of("CURVE"))
    options = {"curve_publickey": CLIENT.public, "curve_secretkey": CLIENT.secret}
    with RequestClient(server.endpoint, options={**options, "curve_serverkey": SERVER.public}) as client:
        ask(client, server)
    client = RequestClient(server.endpoint, options={**options, "curve_serverkey": OTHER_SERVER.public})
    with client, pytest.raises(RequestTimeout, match="something listens there"):
        client.request("x", timeout=0.5)


def test_pauses_between_tries_are_bounded_after_any_number_of_them():
    """A client that is not authorized tries for days."""
    assert 0 <= backoff(100_000) <= 2
    circuit = Circuit(clock=iter(range(0, 10**9, 100)).__next__)
    for _ in range(3000):
        circuit.begin()
        circuit.failed()
    assert circuit.failures == 3000


# Several endpoints, and several keys ---------------------------------------------------------------------------------


def test_one_of_several_endpoints_that_agrees_is_enough(secured, curve):
    good, bad = secured("router", **settings_of("CURVE")), secured("router")
    with RequestClient([bad.endpoint, good.endpoint], security=curve("client", "server")) as client:
        for _ in range(20):
            ask(client, good)
    pulling, refusing = secured("pull", **settings_of("CURVE")), secured("pull")
    with PushClient([refusing.endpoint, pulling.endpoint], security=curve("client", "server")) as client:
        push(client, pulling)


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]], ids=["request", "push"])
def test_the_error_of_several_endpoints_names_all(secured, curve, way):
    first, second = secured(way.kind, pair=SERVER), secured(way.kind)
    with way.client([first.endpoint, second.endpoint], security=curve("client", "server")) as client:
        with pytest.raises(NotAuthorized) as raised:
            way.use(client, first)
        error = raised.value
        assert error.endpoint == f"{first.endpoint}, {second.endpoint}"
        assert f"{first.endpoint}: the server does not let this client in with its key" in error.known
        assert f"; {second.endpoint}: the server speaks no CURVE" in error.known


def test_an_endpoint_that_is_merely_unreachable_is_waited_for(secured, curve):
    refusing = secured("router")
    client = RequestClient([refusing.endpoint, "tcp://127.0.0.1:1"], security=curve("client", "server"))
    with client, pytest.raises(RequestTimeout) as raised:
        client.request("x", timeout=0.7)
    assert f"{refusing.endpoint}: the server speaks no CURVE" in raised.value.known
    assert "Connection refused" in raised.value.known


@each_way
@pytest.mark.parametrize("keys", [("server", "other"), ("other", "server"), ("stranger", "other", "server")])
def test_of_several_server_keys_one_is_the_right_one(secured, curve, way, keys):
    server = secured(way.kind, **settings_of("CURVE"))
    with way.client(server.endpoint, security=curve("client", *keys)) as client:
        way.use(client, server)


@each_way
def test_none_of_several_server_keys_is_right(secured, curve, way):
    server = secured(way.kind, **settings_of("CURVE"))
    with way.client(server.endpoint, security=curve("client", "other", "stranger")) as client:
        with pytest.raises(WrongServerKey) as raised:
            way.use(client, server)
        expected = f"{fingerprint(OTHER_SERVER.public)} or {fingerprint(STRANGER.public)}"
        assert expected in raised.value.known
        server.close()  # a server with the second key of the client comes in its place
        server = secured(way.kind, server.endpoint, pair=STRANGER, authorized={CLIENT.public})
        use_when_refused_no_more(way, client, server)


@each_way
def test_a_server_changes_its_key_and_its_clients_go_on(secured, curve, way, wait_until):
    server = secured(way.kind, pair=OTHER_SERVER, authorized={CLIENT.public})
    with way.client(server.endpoint, security=curve("client", "server", "other")) as client:
        way.use(client, server)
        for pair in (SERVER, OTHER_SERVER, SERVER):
            server.close()
            server = secured(way.kind, server.endpoint, pair=pair, authorized={CLIENT.public})
            wait_until(lambda: not connection_of(client).ready)  # it is known that the one before is gone
            way.use(client, server)
            wait_until(lambda: connection_of(client).ready)


@each_way
def test_the_server_key_that_was_right_is_the_first_to_be_tried_again(secured, curve, way, wait_until):
    server = secured(way.kind, **settings_of("CURVE"))
    with way.client(server.endpoint, security=curve("client", "other", "server")) as client:
        way.use(client, server)
        assert len(server.handshakes()) > 1
        server.close()
        wait_until(lambda: not connection_of(client).ready)
        server = secured(way.kind, server.endpoint, **settings_of("CURVE"))
        way.use(client, server)
        assert server.handshakes() == ["HANDSHAKE_SUCCEEDED"]


def test_two_connections_to_one_endpoint_become_one(secured, curve, wait_until):
    """As when something was left in libzmq of a connection with another key."""
    server = secured("pull", **settings_of("CURVE"))
    with PushClient(server.endpoint, security=curve("client", "other", "server")) as client:
        push(client, server)
        endpoint = connection_of(client)
        wait_until(lambda: endpoint.ready)
        before = endpoint.connections
        client._peers[0].socket.zmq_socket.connect(server.endpoint)
        wait_until(lambda: endpoint.connections > before and endpoint.ready)
        before = endpoint.connections
        for number in range(100):
            client.push(str(number), timeout=TIMEOUT)
            wait_until(lambda: server.pulled[-1] == str(number).encode())  # noqa: B023 - it is called now
        assert server.pulled[1:] == [str(number).encode() for number in range(100)]
        assert endpoint.connections == before


def test_what_was_not_received_yet_is_kept_when_the_publisher_changes_its_key(secured, curve, wait_until):
    """libzmq drops it, and puts together what it had begun to read and what comes next."""
    server = secured("pub", pair=OTHER_SERVER, authorized={CLIENT.public})
    with ListeningClient(server.endpoint, security=curve("client", "server", "other")) as client:
        client.receive(timeout=TIMEOUT)
        published = server.published
        wait_until(lambda: server.published > published + 20)
        server.close()
        secured("pub", server.endpoint, news=[b"later", b"text/plain", b"rain"], **settings_of("CURVE"))
        wait_until(lambda: client.reconnections)
        received = [client.receive(timeout=TIMEOUT)]
        while received[-1].id != "later":
            received.append(client.receive(timeout=TIMEOUT))
        assert {(one.id, one.text) for one in received[:-1]} == {("news", "sunny")}
        assert len(received) > 2
        assert received[-1].text == "rain"


# What clients are given ----------------------------------------------------------------------------------------------


@each_way
def test_without_settings_of_its_own_a_client_is_secured_as_its_context(secured, curve, way):
    server, open_server = secured(way.kind, **settings_of("CURVE")), secured(way.kind)
    with Context.new(curve("client", "server")) as context:
        with way.client(server.endpoint, context=context) as client:
            way.use(client, server)
        with way.client(open_server.endpoint, context=context, security=Security(mechanism="none")) as client:
            way.use(client, open_server)
        client = way.client(server.endpoint, context=context, security=curve("stranger", "server"))
        with client, pytest.raises(NotAuthorized):
            way.use(client, server)


@each_way
def test_settings_that_cannot_be_used_are_told_when_the_client_is_made(way, files):
    for security in (
        Security(server_key=str(files / "nobody.key")),
        Security(secret_key=str(files / "client.key_secret")),
        Security(username="ann"),
    ):
        with pytest.raises(SecurityError):
            way.client("tcp://127.0.0.1:1", security=security)
    with pytest.raises(TypeError) as raised:
        way.client("tcp://127.0.0.1:1", security={"password": USER.password})
    assert USER.password not in str(raised.value)


# Following -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusing", ["requests", "broadcasts"])
def test_who_follows_something_is_told_by_whom_it_is_refused(secured, curve, refusing):
    right = settings_of("CURVE")
    router = secured("router", **(right if refusing == "broadcasts" else {"pair": SERVER}))
    publisher = secured("pub", **(right if refusing == "requests" else {"pair": SERVER}))
    security = curve("client", "server")
    with ObservableServiceClient(router.endpoint, publisher.endpoint, timeout=TIMEOUT, security=security) as client:
        for _ in range(3):
            with pytest.raises(NotAuthorized) as raised:
                list(client.follow("x"))
            assert raised.value.endpoint == (router if refusing == "requests" else publisher).endpoint
        router.authorized.add(CLIENT.public)
        publisher.authorized.add(CLIENT.public)
        with gevent.Timeout(PATIENCE, AssertionError("it is refused for ever")):
            while True:
                try:
                    with client.follow("x", id="news", until=lambda received: True) as following:
                        assert [received.text for received in following] == ["sunny"]
                        assert following.reply.text == "x"
                    break
                except NotAuthorized:
                    gevent.sleep(0.005)


def test_who_follows_something_is_told_when_broadcasts_are_refused_later(secured, curve, spawn):
    router, publisher = (secured(kind, **settings_of("CURVE")) for kind in ("router", "pub"))
    security = curve("client", "server")
    with ObservableServiceClient(router.endpoint, publisher.endpoint, timeout=TIMEOUT, security=security) as client:
        following = client.follow("x")
        assert following.reply.text == "x"
        waiting = spawn(list, following)
        publisher.close()
        secured("pub", publisher.endpoint, pair=SERVER)
        waiting.join(PATIENCE)
        assert type(waiting.exception) is NotAuthorized
