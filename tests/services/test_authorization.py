"""What who is known may do, and for how long: groups, networks, revoked keys, and what peers say of themselves."""

import errno
import json
import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import gevent
import gevent.monkey
import pytest
import zmq
import zmq.green
from gevent.event import Event

from dploylib.errors import ConfigurationError, SecurityError, SocketStateError
from dploylib.security import KeyPair, Security, authorize, revoke, write_key_pair
from dploylib.security.authorized import AuthorizedKeys
from dploylib.servers import Server, allow, bind, bind_in
from dploylib.services import GreenletServerCoordinator, Service
from dploylib.testing import FlakyProxy
from dploylib.transport import Context
from dploylib.transport.descriptors import duplicate, where_from
from dploylib.transport.monitor import SocketMonitor
from tests.hard.zmtp import Connection, message
from tests.services.bare import PATIENCE, bare_context, with_key, with_password

pytestmark = pytest.mark.usefixtures("leak_check")


class AllKinds(Server):
    news = bind("news", "pub")
    work = bind("work", "push")

    def setup(self):
        self.pulled = []

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return received

    @bind_in("router", "router")
    def router(self, socket, received):
        return received

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.pulled.append(received.text)


class Holding(AllKinds):
    """Whoever sends "hold" is answered when the test says so."""

    def setup(self):
        super().setup()
        self.held = 0
        self.released = Event()

    def rep(self, socket, received):
        return self.hold(received)

    def router(self, socket, received):
        return self.hold(received)

    def hold(self, received):
        if received.text != "hold":
            return received
        self.held += 1
        self.released.wait()
        return "released"


class Keys:
    """The key of a server, and those of its clients, by name."""

    def __init__(self, directory):
        self.server = KeyPair.generate()
        self.pairs = {}
        write_key_pair(directory / "server", self.server)
        self.path = f"{directory}/authorized/"
        self.security = {"secret_key": f"{directory}/server.key_secret", "authorized_keys": self.path}

    def authorize(self, *names, groups=()):
        """Let these in, who have the keys that they had before, if they had."""
        for name in names:
            pair = self.pairs.setdefault(name, KeyPair.generate())
            authorize(self.path, name, pair.public, groups)

    def revoke(self, *names):
        """Let these in no more."""
        for name in names:
            revoke(self.path, name)

    def move(self, name, *groups):
        """Put somebody into these groups, and no other."""
        self.revoke(name)
        self.authorize(name, groups=groups)

    def of(self, name):
        """The options of a client with the key of somebody."""
        return with_key(self.pairs[name], self.server.public)


@pytest.fixture
def keys(tmp_path):
    keys = Keys(tmp_path)
    keys.authorize("alice")
    return keys


@pytest.fixture
def start_secured(any_service, config_for):
    """`start_secured(AllKinds, security)`: a service of one server, `it`, that is secured so, and runs."""

    def start(server_cls, security, **sockets):
        service = any_service(it=server_cls)
        return service.start(config_dict=config_for(service, it=sockets) | {"security": security})

    return start


@pytest.fixture
def new():
    """`new(kind, endpoint, **options)`: a client of plain pyzmq."""
    with bare_context() as new:
        yield new


def came_from(endpoint, address):
    """The endpoint, for who connects to it from that address of this machine."""
    return endpoint.replace("tcp://", f"tcp://{address}:0;")


# Revoked keys ------------------------------------------------------------------------------------------------------


def test_the_log_names_who_was_revoked(keys, start_secured, new, wait_until, caplog):
    keys.authorize("mallory")
    service = start_secured(AllKinds, keys.security)
    client = new("req", service.endpoints["it"]["rep"], **keys.of("mallory"))
    assert client.ask("hello") == "hello"
    keys.revoke("mallory")
    client.hear("DISCONNECTED")
    wait_until(lambda: "it.rep: revoked mallory; connections closed: 1" in caplog.messages)
    wait_until(lambda: "it.pull: revoked mallory; connections closed: 0" in caplog.messages)


def test_who_took_his_time_to_shake_hands_is_put_out_with_his_key(keys, start_secured, new):
    """Others came from the same address meanwhile, and it could be taken for one of theirs."""
    keys.authorize("mallory")
    service = start_secured(AllKinds, keys.security)
    endpoint = service.endpoints["it"]["rep"]
    with FlakyProxy(endpoint) as proxy:
        proxy.stall()
        slow = new("req", proxy.endpoint, **keys.of("mallory"))
        slow.send("it is me")
        for _ in range(3):
            client = new("req", endpoint, **keys.of("alice"))
            assert client.ask("hello") == "hello"
            client.close()
        with closing(Connection(endpoint)):
            assert new("req", endpoint, **keys.of("alice")).ask("hello") == "hello"
            proxy.resume()
            assert slow.receive() == "it is me"
            keys.revoke("mallory")
            slow.hear("DISCONNECTED")


def test_revoked_keys_are_put_out_of_all_sockets_and_others_stay(keys, start_secured, new, wait_until):
    """Those who never send as well. What the others wait for arrives."""
    keys.authorize("mallory")
    service = start_secured(Holding, keys.security)
    endpoints = service.endpoints["it"]
    kinds = {"req": "rep", "dealer": "router", "push": "pull", "sub": "news", "pull": "work"}

    def connect(name):
        clients = {}
        for kind, name_there in kinds.items():
            subscription = {"subscribe": b""} if kind == "sub" else {}
            clients[kind] = new(kind, endpoints[name_there], **keys.of(name), **subscription)
            assert clients[kind].shake_hands() == "HANDSHAKE_SUCCEEDED"
        return clients

    stay, go = connect("alice"), connect("mallory")
    server = service.servers["it"]
    for kind in ("req", "dealer"):
        stay[kind].send("hold")
    wait_until(lambda: server.held == 2)
    keys.revoke("mallory")
    for one in go.values():
        one.hear("DISCONNECTED")
    server.released.set()
    assert [stay[kind].receive() for kind in ("req", "dealer")] == ["released", "released"]
    stay["push"].send("still here")
    server.sockets.news.send_text("news")
    server.sockets.work.send_text("work")
    assert [stay[kind].receive() for kind in ("sub", "pull")] == ["news", "work"]
    wait_until(lambda: server.pulled == ["still here"])
    assert not any({"DISCONNECTED", "CLOSED"} & set(one.heard()) for one in stay.values())


def test_all_of_the_revoked_are_put_out_who_came_at_the_same_moment_from_one_address(keys, start_secured, new):
    """Whose connection is whose is not told then: too many may be put out, and none too few."""
    names = [f"client{number}" for number in range(50)]
    keys.authorize(*names)
    endpoint = start_secured(AllKinds, keys.security).endpoints["it"]["rep"]
    clients = {name: new("req", endpoint, **keys.of(name)) for name in names}
    for name, client in clients.items():
        client.send(name)
    for name, client in clients.items():
        assert client.receive() == name
    gone = names[::5]
    keys.revoke(*gone)
    for name in gone:
        clients[name].hear("DISCONNECTED")
    assert new("req", endpoint, **keys.of(names[1])).ask("hello") == "hello"


@pytest.mark.parametrize("change", ["another password", "user removed", "file removed"])
def test_who_loses_his_password_is_put_out(start_secured, new, tmp_path, change):
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    passwords.write_text("alice secret\nbob b\n")
    endpoint = start_secured(AllKinds, {"passwords": str(passwords)}).endpoints["it"]["rep"]
    bob = new("req", endpoint, **with_password("bob", "b"))
    assert bob.ask("hello") == "hello"
    alice = new("req", endpoint, **with_password("alice", "secret"))
    assert alice.ask("hello") == "hello"
    if change == "file removed":
        passwords.unlink()
    else:
        passwords.write_text("alice other\nbob b\n" if change == "another password" else "bob b\n")
    alice.hear("DISCONNECTED")
    assert new("req", endpoint, **with_password("alice", "secret")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    if change == "file removed":
        bob.hear("DISCONNECTED")
        return
    assert bob.ask("hello") == "hello"
    assert "DISCONNECTED" not in bob.heard()
    if change == "another password":
        assert new("req", endpoint, **with_password("alice", "other")).ask("hello") == "hello"


def test_who_is_in_none_of_the_groups_of_the_socket_any_more_is_put_out(keys, start_secured, new):
    keys.authorize("bob", groups=["deployers"])
    service = start_secured(AllKinds, keys.security, rep={"security": {"groups": ["deployers"]}})
    endpoint = service.endpoints["it"]["rep"]
    assert new("req", endpoint, **keys.of("alice")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    assert new("req", service.endpoints["it"]["router"], **keys.of("alice")).shake_hands() == "HANDSHAKE_SUCCEEDED"
    bob = new("req", endpoint, **keys.of("bob"))
    assert bob.ask("hello") == "hello"
    keys.move("bob", "others")
    bob.hear("DISCONNECTED")
    assert new("req", endpoint, **keys.of("bob")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    guard = service.servers["it"].sockets.rep.guard
    assert {reason for reason, _ in guard.refusals} == {
        "alice is in none of the groups deployers",
        "bob is in none of the groups deployers",
    }


# Handlers for groups -----------------------------------------------------------------------------------------------


class Allows(Server):
    def setup(self):
        self.handled = []

    @bind_in("above", "rep")
    @allow("deployers")
    def above(self, socket, received):
        return "above"

    @allow("deployers", "admins")
    @bind_in("below", "rep")
    def below(self, socket, received):
        return "below"

    @bind_in("pull", "pull")
    @allow("deployers")
    def pull(self, socket, received):
        self.handled.append(received.text)

    @allow("deployers")
    @bind_in("sub", "sub", options={"subscribe": ""})
    def sub(self, socket, received):
        self.handled.append(received.text)


class Overrides(Allows):
    """Nothing is said of the groups of these, but of the last."""

    def above(self, socket, received):
        return "overridden above"

    def below(self, socket, received):
        return "overridden below"

    @allow("everyone")
    def pull(self, socket, received):
        self.handled.append(f"overridden {received.text}")


class HandlerObject:
    def __call__(self, server, socket, received):
        return "object"


class HasObject(Server):
    above = allow("deployers")(bind_in("above", "rep")(HandlerObject()))
    below = bind_in("below", "rep")(allow("deployers")(HandlerObject()))


@pytest.mark.parametrize(
    ("server_cls", "says"),
    [
        (Allows, ["above", "below"]),
        (Overrides, ["overridden above", "overridden below"]),
        (HasObject, ["object", "object"]),
    ],
)
def test_a_handler_is_for_its_groups(keys, start_secured, new, server_cls, says):
    keys.authorize("dora", groups=["deployers"])
    keys.authorize("everyone", groups=["everyone"])
    service = start_secured(server_cls, keys.security)
    for name, answer in zip(["above", "below"], says, strict=True):
        endpoint = service.endpoints["it"][name]
        assert new("req", endpoint, **keys.of("dora")).ask("hello") == answer
        for who in ("alice", "everyone"):
            problem = json.loads(new("req", endpoint, **keys.of(who)).ask("hello"))
            assert (problem["type"], problem["status"]) == ("urn:dploylib:forbidden", 403)
            assert problem["detail"].endswith(f"and not for {who}")
        counts = service.servers["it"].counts[name]
        assert (counts.received, counts.refused, counts.replied) == (3, 2, 3)


@pytest.mark.parametrize(("client_type", "name"), [("push", "pull"), ("pub", "sub")])
def test_what_nobody_may_send_there_is_not_handled_and_told_to_the_log(
    keys, start_secured, new, wait_until, caplog, client_type, name
):
    """A line, and a second later how many more there were: nobody can fill the disk."""
    keys.authorize("dora", groups=["deployers"])
    service = start_secured(Allows, keys.security)
    server, endpoint = service.servers["it"], service.endpoints["it"][name]
    counts = server.counts[name]
    intruder, deployer = (new(client_type, endpoint, **keys.of(who)) for who in ("alice", "dora"))
    wait_until(lambda: intruder.send("first") or counts.refused)  # a SUB has to subscribe first
    before = counts.received
    for _ in range(100):
        intruder.send("no")
    wait_until(lambda: counts.received >= before + 100)
    wait_until(lambda: deployer.send("yes") or server.handled)
    assert set(server.handled) == {"yes"}
    assert counts.refused == counts.received - len(server.handled)
    lines = [one.message for one in caplog.records if "is for deployers, and not for alice" in one.message]
    assert 1 <= len(lines) <= 2 + len([one for one in caplog.records if "more refused" in one.message])


def test_groups_count_as_they_are_when_a_message_comes(keys, start_secured, new):
    service = start_secured(Allows, keys.security)
    alice = new("req", service.endpoints["it"]["above"], **keys.of("alice"))
    assert json.loads(alice.ask("hello"))["status"] == 403
    keys.move("alice", "deployers")
    with gevent.Timeout(PATIENCE):
        while alice.ask("hello") != "above":
            gevent.sleep(0.01)
    keys.move("alice", "others")
    with gevent.Timeout(PATIENCE):
        while alice.ask("hello") == "above":
            gevent.sleep(0.01)
    assert "DISCONNECTED" not in alice.heard()


@pytest.mark.parametrize("security", [{}, {"allow": ["127.0.0.1"]}], ids=["none", "by address"])
def test_a_handler_for_groups_is_refused_where_nobody_is_known(any_service, config_for, security):
    service = any_service(it=Allows)
    with pytest.raises(ConfigurationError, match="nobody is known by name here"):
        service.start(config_dict=config_for(service) | {"security": security})


# What peers say of themselves --------------------------------------------------------------------------------------


class Tells(Server):
    @bind_in("request", "rep")
    def request(self, socket, received):
        return repr(None if received.peer is None else tuple(received.peer))


FORGED = {"User-Id": "alice", "Peer-Address": "10.0.0.1", "name": "alice", "__fd": "0", "Identity": "me"}


@pytest.mark.parametrize(
    ("security", "known"),
    [
        ({}, None),
        ({"allow": ["127.0.0.0/8"]}, ("", frozenset(), "", "127.0.0.1")),
        ({"deny": ["10.0.0.1"]}, ("", frozenset(), "", "127.0.0.1")),
        ({"max_connections_per_address": 3}, ("", frozenset(), "", "127.0.0.1")),
    ],
    ids=["nothing is asked", "allow", "deny", "limit"],
)
def test_what_a_peer_says_of_itself_in_its_handshake_changes_nothing(start_secured, security, known):
    service = start_secured(Tells, security)
    with closing(Connection(service.endpoints["it"]["request"])) as forger:
        forger.shake_hands("REQ", FORGED)
        assert forger.ask([b"", b"", b"text/plain", b"who am I?"])[-1].decode() == repr(known)


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_of_the_protocol_are_no_way_in(start_secured, version):
    """They know no mechanisms, and nobody is asked about them: libzmq turns them away where somebody would be."""
    endpoint = start_secured(Tells, {"deny": ["10.0.0.1"]}).endpoints["it"]["request"]
    greeting = b"\x01\x00" if version == 1 else b"\xff" + bytes(8) + b"\x7f\x01\x03\x00\x00"
    body = message([b"", b"", b"text/plain", b"who am I?"])
    with closing(Connection(endpoint)) as old:
        old.send(greeting + body)
        assert b"127.0.0.1" not in old.wait_until_closed()
    with closing(Connection(endpoint)) as forger:
        assert "127.0.0.1" in forger.shake_hands("REQ").ask([b"", b"", b"text/plain", b"who am I?"])[-1].decode()


# Addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "let_in", "reason"),
    [
        ({"allow": ["127.0.0.1", "10.0.0.0/8"]}, {"127.0.0.1"}, "address not allowed"),
        ({"allow": ["127.0.0.0/30"]}, {"127.0.0.1", "127.0.0.2"}, "address not allowed"),
        ({"deny": ["127.0.0.2"]}, {"127.0.0.1", "127.0.0.9"}, "address denied"),
        ({"allow": ["127.0.0.0/8"], "deny": ["127.0.0.2/31"]}, {"127.0.0.1", "127.0.0.9"}, "address denied"),
    ],
)
@pytest.mark.parametrize("mechanism", ["open", "curve"])
def test_networks_that_may_connect_and_those_that_may_not(
    keys, start_secured, new, security, let_in, reason, mechanism
):
    options = keys.of("alice") if mechanism == "curve" else {}
    secured = {**security, **(keys.security if mechanism == "curve" else {})}
    service = start_secured(Tells, secured)
    endpoint = service.endpoints["it"]["request"]
    addresses = ("127.0.0.1", "127.0.0.2", "127.0.0.9")
    for address in addresses:
        client = new("req", came_from(endpoint, address), **options)
        if address in let_in:
            assert f"'{address}'" in client.ask("who am I?")
        else:
            client.send("who am I?")
            assert client.shake_hands() == "HANDSHAKE_FAILED_AUTH"
    refused = service.servers["it"].sockets.request.guard.refusals
    assert refused == {(reason, address): 1 for address in addresses if address not in let_in}


def test_one_address_has_so_many_connections_and_no_more(keys, start_secured, new, wait_until):
    service = start_secured(Tells, {**keys.security, "max_connections_per_address": 3})
    endpoint = service.endpoints["it"]["request"]
    first = [new("req", endpoint, **keys.of("alice")) for _ in range(3)]
    for client in first:
        assert "alice" in client.ask("who am I?")
    over = new("req", endpoint, **keys.of("alice"))
    over.send("who am I?")
    over.hear("DISCONNECTED", "HANDSHAKE_FAILED_NO_DETAIL", "HANDSHAKE_FAILED_PROTOCOL")
    elsewhere = new("req", came_from(endpoint, "127.0.0.2"), **keys.of("alice"))
    assert "127.0.0.2" in elsewhere.ask("who am I?")
    refused = service.servers["it"].sockets.request.guard.refusals
    assert refused["too many connections from this address", "127.0.0.1"] == 1
    first.pop().close()
    with gevent.Timeout(PATIENCE):  # libzmq gets to know of it a moment later
        while True:
            again = new("req", endpoint, **keys.of("alice"))
            if again.shake_hands() == "HANDSHAKE_SUCCEEDED" and "DISCONNECTED" not in again.heard():
                break
            again.close()
    for client in first:
        assert "alice" in client.ask("who am I?")


# ipc ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
@pytest.mark.parametrize(("setting", "mode"), [(None, 0o600), ("0660", 0o660), ("0666", 0o666)])
def test_an_ipc_file_is_for_its_owner_or_whom_the_settings_say(
    start_secured, new, ipc_dir, monkeypatch, umask, setting, mode
):
    """From the beginning: the mask says so while it is made, whatever that of the process is."""
    masks = []
    real = os.umask
    monkeypatch.setattr(os, "umask", lambda mask: masks.append(mask) or real(mask))
    path = ipc_dir / "request"
    before = real(umask)
    try:
        service = start_secured(
            Tells, {} if setting is None else {"ipc_permissions": setting}, request={"uri": f"ipc://{path}"}
        )
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert masks[-1] == umask
        assert masks[-2] & 0o777 & ~mode == 0o777 & ~mode  # while it is made
        assert real(umask) == umask
        assert new("req", f"ipc://{path}").ask("who am I?") == "None"
        service.stop()
    finally:
        real(before)


def test_who_comes_by_ipc_is_known_by_his_user_and_process(start_secured, new, ipc_dir):
    service = start_secured(Tells, {"max_connections_per_address": 5}, request={"uri": f"ipc://{ipc_dir}/request"})
    address = f"localhost:{os.getuid()}:{os.getgid()}:{os.getpid()}"
    client = new("req", f"ipc://{ipc_dir}/request")
    assert client.ask("who am I?") == repr(("", frozenset(), "", address))
    service.stop()


def test_revoked_keys_are_put_out_of_ipc_too(keys, start_secured, new, ipc_dir):
    keys.authorize("mallory")
    service = start_secured(AllKinds, keys.security, rep={"uri": f"ipc://{ipc_dir}/rep"})
    alice, mallory = (new("req", f"ipc://{ipc_dir}/rep", **keys.of(name)) for name in ("alice", "mallory"))
    assert mallory.ask("hello") == "hello"
    assert alice.ask("hello") == "hello"
    keys.revoke("mallory")
    mallory.hear("DISCONNECTED")
    service.stop()


# Services and contexts ---------------------------------------------------------------------------------------------


def test_services_in_one_process_have_guards_of_their_own(keys, start_secured, new, tmp_path):
    (tmp_path / "other").mkdir()
    others = Keys(tmp_path / "other")
    others.authorize("bob")
    services = [start_secured(Tells, security) for security in (keys.security, others.security, keys.security)]
    for service, own, foreign in zip(services, [keys, others, keys], [others, keys, others], strict=True):
        endpoint = service.endpoints["it"]["request"]
        name, stranger = ("alice", "bob") if own is keys else ("bob", "alice")
        assert f"'{name}'" in new("req", endpoint, **own.of(name)).ask("who am I?")
        refused = new("req", endpoint, **with_key(foreign.pairs[stranger], own.server.public))
        assert refused.shake_hands() == "HANDSHAKE_FAILED_AUTH"


def test_services_share_a_context_and_one_ends_before_the_other(keys, config_for, new):
    with Context.new() as context:
        services = []
        for _ in range(2):
            services.append(Service(coordinator=GreenletServerCoordinator(context=context)))
            services[-1].add_server("it", Tells)
            services[-1].start(config_dict=config_for(services[-1]) | {"security": keys.security})
        first, second = services
        for _ in range(2):
            for service in services:
                assert "alice" in new("req", service.endpoints["it"]["request"], **keys.of("alice")).ask("who am I?")
            first.stop()
            assert "alice" in new("req", second.endpoints["it"]["request"], **keys.of("alice")).ask("who am I?")
            first.start(config_dict=config_for(first) | {"security": keys.security})
        first.stop()
        second.stop()


def test_a_context_that_is_not_ours_goes_on_when_it_was_closed(keys, config_for, new):
    zmq_context = zmq.green.Context()
    context = Context(zmq_context)
    for _ in range(10):
        with context:
            service = Service(coordinator=GreenletServerCoordinator(context=context))
            service.add_server("it", Tells)
            with service.start(config_dict=config_for(service) | {"security": keys.security}):
                assert "alice" in new("req", service.endpoints["it"]["request"], **keys.of("alice")).ask("who am I?")
    zmq_context.term()


def test_where_somebody_else_decides_who_may_connect_a_service_does_not_start(keys, any_service, config_for):
    zmq_context = zmq.green.Context()
    handler = zmq_context.socket(zmq.REP)
    handler.bind("inproc://zeromq.zap.01")
    context = Context(zmq_context)
    service = any_service(GreenletServerCoordinator(context=context), it=Tells)
    with pytest.raises(SecurityError, match=r"'it', socket 'request': somebody else decides in this context who may"):
        service.start(config_dict=config_for(service) | {"security": keys.security})
    context.close()
    handler.close()
    zmq_context.term()


class Dies(Tells):
    def setup(self):
        self.spawn(self.die_when_told)
        self.told = Event()

    def die_when_told(self):
        self.told.wait()
        raise ValueError("it was told to")


def test_a_server_that_was_started_again_is_guarded_again(keys, any_service, config_for, new, wait_until):
    keys.authorize("mallory")
    service = any_service(it=Dies)
    config = config_for(service) | {"security": keys.security}
    config["supervision"] = {"it": {"restart": "on-failure", "backoff": 0.01}}
    service.start(config_dict=config)
    before = service.servers["it"]
    mallory = new("req", service.endpoints["it"]["request"], **keys.of("mallory"))
    assert "mallory" in mallory.ask("who am I?")
    before.told.set()
    mallory.hear("DISCONNECTED")
    wait_until(
        lambda: service.servers.get("it") not in (None, before) and service.endpoints.get("it", {}).get("request")
    )
    endpoint = service.endpoints["it"]["request"]
    mallory = new("req", endpoint, **keys.of("mallory"))
    assert "mallory" in mallory.ask("who am I?")
    assert new("req", endpoint).shake_hands() in ("HANDSHAKE_FAILED_PROTOCOL", "HANDSHAKE_FAILED_NO_DETAIL")
    keys.revoke("mallory")
    mallory.hear("DISCONNECTED")
    guard = service.servers["it"].sockets.request.guard
    assert new("req", endpoint, **keys.of("mallory")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    assert guard.refusals["key not authorized", "127.0.0.1"] == 1


def test_who_cannot_be_decided_about_is_not_let_in_and_the_next_one_is(
    keys, start_secured, new, monkeypatch, caplog, wait_until
):
    service = start_secured(Tells, keys.security)
    endpoint = service.endpoints["it"]["request"]
    guard = service.servers["it"].sockets.request.guard
    with monkeypatch.context() as patch:
        patch.setattr(guard.gate, "admit", lambda *_: 1 / 0)
        assert new("req", endpoint, **keys.of("alice")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    assert "alice" in new("req", endpoint, **keys.of("alice")).ask("who am I?")
    wait_until(lambda: "it.request: cannot decide who may connect: ZeroDivisionError" in caplog.text)


# Handshakes that take too long ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mechanism", "octets"),
    [("curve", 0), ("curve", 64 + 202 + 100), ("plain", 64), ("none", 10)],
)
def test_who_does_not_finish_his_handshake_is_put_out_and_who_has_done_so_may_be_quiet(
    keys, start_secured, new, wait_until, tmp_path, mechanism, octets
):
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    passwords.write_text("alice secret\n")
    security, options = {
        "curve": (keys.security, keys.of("alice")),
        "plain": ({"passwords": str(passwords)}, with_password("alice", "secret")),
        "none": ({"allow": ["127.0.0.1"]}, {}),
    }[mechanism]
    service = start_secured(AllKinds, security, rep={"options": {"handshake_ivl": 3000}})
    endpoint = service.endpoints["it"]["rep"]
    assert service.servers["it"].sockets.rep.get_option("handshake_ivl") == 3000
    quiet, asks = (new("dealer", endpoint, **options) for _ in range(2))
    assert quiet.shake_hands() == asks.shake_hands() == "HANDSHAKE_SUCCEEDED"
    refusals = service.servers["it"].sockets.rep.guard.refusals
    with FlakyProxy(endpoint) as proxy:
        if octets:
            proxy.rate = 1000
        else:
            proxy.stall()
        new("dealer", proxy.endpoint, handshake_ivl=0, **options)
        wait_until(lambda: proxy.connections == 1 and proxy.passed["up"] >= octets)
        proxy.stall()
        wait_until(lambda: refusals["went away during the handshake", "127.0.0.1"] == 1)
    assert asks.ask("hello") == "hello"
    assert quiet.ask("hello") == "hello"


# Monitors ------------------------------------------------------------------------------------------------------------


def test_nobody_takes_its_monitor_away_from_a_socket_that_looks_at_who_connects(keys, new):
    keys.authorize("mallory")
    with Context.new(Security(**keys.security)) as context:
        socket = context.socket("router")
        before = SocketMonitor(socket)
        socket.bind("tcp://127.0.0.1:*")
        assert before.receive(PATIENCE).kind == "monitor_stopped"
        before.close()
        with pytest.raises(SocketStateError, match="its monitor is needed for looking at who connects"):
            SocketMonitor(socket)
        mallory = new("dealer", socket.endpoint, **keys.of("mallory"))
        assert mallory.shake_hands() == "HANDSHAKE_SUCCEEDED"
        keys.revoke("mallory")
        mallory.hear("DISCONNECTED")


# Without descriptors ------------------------------------------------------------------------------------------------


@contextmanager
def no_descriptors_left():
    """No file can be opened, as when too many are connected."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)


@pytest.mark.parametrize("where", ["authorized/", "authorized"])
def test_who_is_revoked_while_no_file_can_be_opened_is_put_out_when_one_can(tmp_path, where):
    path = f"{tmp_path}/{where}"
    alice, mallory, bob = (KeyPair.generate().public for _ in range(3))
    authorize(path, "alice", alice)
    authorize(path, "mallory", mallory)
    known = AuthorizedKeys(path)
    revoke(path, "mallory")
    authorize(path, "bob", bob)
    complaints = []
    with no_descriptors_left():
        for _ in range(4):
            assert known.changed(complaints.append) is None
        assert known.get(alice) is not None
        assert known.get(mallory) is not None
    for _ in range(2):
        known.changed(complaints.append)
    assert known.get(alice) is not None
    assert known.get(bob) is not None
    assert known.get(mallory) is None
    assert all("Too many open files" in one for one in complaints)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_nobody_is_put_out_because_his_file_cannot_be_opened_for_a_moment(tmp_path, monkeypatch, error):
    path = f"{tmp_path}/authorized/"
    alice, bob = (KeyPair.generate().public for _ in range(2))
    authorize(path, "alice", alice)
    known = AuthorizedKeys(path)
    authorize(path, "bob", bob)
    real_open = os.open

    def fail(file, *args, **kwargs):
        if str(file).endswith("bob.key"):
            raise OSError(error, os.strerror(error), file)
        return real_open(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("os.open", fail)
        for _ in range(3):
            assert known.changed(lambda _: None) is None
        assert known.get(alice) is not None
    for _ in range(2):
        known.changed(pytest.fail)
    assert known.get(alice) is not None
    assert known.get(bob) is not None


def test_who_hangs_up_before_he_is_answered_makes_nobody_outlive_his_key(keys, start_secured, new, wait_until):
    """He was counted as one of those who are there: another one was taken for known, who was still shaking hands."""
    keys.authorize("mallory")
    service = start_secured(AllKinds, keys.security)
    endpoint = service.endpoints["it"]["rep"]
    guard = service.servers["it"].sockets.rep.guard
    zap = service.context.authenticator._zap
    with FlakyProxy(endpoint) as proxy:
        proxy.stall()
        slow = new("req", proxy.endpoint, **keys.of("mallory"))
        slow.send("it is me")
        wait_until(lambda: len(guard._connections) == 1)
        # Until he is gone the hub does not run, which would answer him.
        with zmq.Context() as context:
            hasty = context.socket(zmq.REQ)
            hasty.linger = 0
            for option, value in keys.of("alice").items():
                hasty.set(getattr(zmq, option.upper()), value)
            hasty.connect(endpoint)
            spin_until(zap.has_input)
            hasty.close()
        spin_until(lambda: has_heard(guard) and len(guard._connections) == 1 and zap.has_input())
        wait_until(lambda: not zap.has_input())
        with closing(Connection(endpoint)):
            wait_until(lambda: len(guard._connections) == 2)
            proxy.resume()
            assert slow.receive() == "it is me"
            keys.revoke("mallory")
            slow.hear("DISCONNECTED")


def has_heard(guard) -> bool:
    guard._hear()
    return not guard._untold


def spin_until(condition) -> None:
    """Wait for something that threads of libzmq do, and do not let the hub run."""
    while not condition():
        pass


def link_local_addresses() -> Iterator[str]:
    """Those of this machine, with the interface that each is at."""
    with open("/proc/net/if_inet6") as interfaces:
        for address, _, _, scope, _, name in map(str.split, interfaces):
            if scope == "20":
                yield f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))}%{name}"


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_a_revoked_key_is_put_out_that_came_by_ipv6(keys, start_secured, new):
    service = start_secured(AllKinds, keys.security, rep={"uri": "tcp://[::1]:*", "options": {"ipv6": 1}})
    client = new("req", service.endpoints["it"]["rep"], ipv6=1, **keys.of("alice"))
    assert client.ask("hello") == "hello"
    keys.revoke("alice")
    client.hear("DISCONNECTED")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_a_revoked_key_is_put_out_that_came_from_an_address_with_a_zone(keys, start_secured, new):
    address = next(link_local_addresses(), None)
    if address is None:
        pytest.skip("no interface has a link-local address")
    service = start_secured(AllKinds, keys.security, rep={"uri": "tcp://*:*", "options": {"ipv6": 1}})
    endpoint = service.endpoints["it"]["rep"].replace("[::]", f"[{address}]")
    client = new("req", endpoint, ipv6=1, **keys.of("alice"))
    assert client.ask("hello") == "hello"
    keys.revoke("alice")
    client.hear("DISCONNECTED")


class Slow(Server):
    def setup(self):
        self.pulled = []
        self.go_on = Event()

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.pulled.append(received.text)
        self.go_on.wait()


def test_what_a_revoked_key_has_sent_before_is_not_handled_any_more(keys, start_secured, new, wait_until):
    keys.authorize("mallory")
    service = start_secured(Slow, keys.security)
    server = service.servers["it"]
    mallory = new("push", service.endpoints["it"]["pull"], **keys.of("mallory"))
    mallory.shake_hands()
    for number in range(5):
        mallory.send(str(number))
    wait_until(lambda: server.pulled)
    keys.revoke("mallory")
    mallory.hear("DISCONNECTED")
    server.go_on.set()
    wait_until(lambda: server.counts["pull"].refused == 4)
    assert server.pulled == ["0"]
    keys.authorize("mallory")
    with gevent.Timeout(PATIENCE):
        while True:  # until the list was read again
            again = new("push", service.endpoints["it"]["pull"], **keys.of("mallory"))
            if again.shake_hands() == "HANDSHAKE_SUCCEEDED":
                break
    again.send("again")
    wait_until(lambda: server.pulled == ["0", "again"])


# Strangers -----------------------------------------------------------------------------------------------------------


def come_and_go(endpoint: str, strangers: int) -> None:
    """Connect, and hang up, again and again. The hub does not run meanwhile, so that nobody hears of it."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    for _ in range(strangers):
        plain = gevent.monkey.get_original("socket", "socket")()
        plain.connect((host, int(port)))
        plain.close()


def test_others_get_to_run_while_strangers_come_and_go(keys, start_secured):
    service = start_secured(AllKinds, keys.security)
    guard = service.servers["it"].sockets.rep.guard
    strangers = 2000
    come_and_go(service.endpoints["it"]["rep"], strangers)
    seen = set()
    with gevent.Timeout(PATIENCE):
        while guard.refusals.total() < strangers:
            seen.add(guard.refusals.total())
            gevent.sleep(0.001)
    assert seen - {0}, "all of them were looked at in one go"


def test_a_connection_is_looked_at_without_a_descriptor_to_spare_and_stays_open():
    here, there = socket.socketpair()
    with closing(here), closing(there):
        with no_descriptors_left(), duplicate(here.fileno()) as connection:
            assert where_from(connection)[1] == (os.getpid(), os.getuid(), os.getgid())
            assert connection.fileno() == here.fileno()
        here.sendall(b"still open")
        assert there.recv(100) == b"still open"


def test_a_duplicate_with_the_number_of_what_was_closed_meanwhile_is_closed_too(monkeypatch):
    """libzmq closes its own after it was found, and before the duplicate has a number: it gets the one that is free."""
    here, there = socket.socketpair()
    real_dup = os.dup

    def dup(number):
        spare = real_dup(number)
        os.dup2(spare, here.detach(), inheritable=False)
        gevent.monkey.get_original("os", "close")(spare)
        return number

    monkeypatch.setattr(os, "dup", dup)
    number = here.fileno()
    with closing(there):
        with duplicate(number) as connection:
            assert connection.fileno() == number
        assert there.recv(1) == b"", "it is still open"


def test_what_is_no_connection_any_more_is_not_looked_at(tmp_path):
    """libzmq has closed it; its number is nobody's, or by now that of a file. No duplicate is left either."""
    with (tmp_path / "file").open("w") as file:
        number = file.fileno()
        with duplicate(number) as found:
            assert found is None or where_from(found) == ("", None)
    with duplicate(number) as found:
        assert found is None


def test_who_comes_in_behind_many_strangers_is_put_out_with_his_key(keys, start_secured, new):
    """He is let in before it was heard that he is there."""
    service = start_secured(AllKinds, keys.security)
    endpoint = service.endpoints["it"]["rep"]
    zap = service.context.authenticator._zap
    come_and_go(endpoint, 2000)
    client = new("req", endpoint, **keys.of("alice"))
    spin_until(zap.has_input)
    assert client.ask("hello") == "hello"
    keys.revoke("alice")
    client.hear("DISCONNECTED")
