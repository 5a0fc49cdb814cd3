"""What who is known may do, and for how long: groups, networks, revoked keys, and what peers say of themselves."""

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import gevent
import gevent.monkey
import pytest
import zmq
from gevent.event import Event

from dploylib.security import KeyPair, authorize, revoke, write_key_pair
from dploylib.servers import Server, bind, bind_in
from dploylib.testing import FlakyProxy
from tests.hard.zmtp import Connection
from tests.services.bare import bare_context, with_key

pytestmark = pytest.mark.usefixtures("leak_check")

ANYWHERE = "tcp://127.0.0.1:*"
PATIENCE = 20.0  # seconds; an upper bound, on a loaded machine too


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


class Keys:
    """The key of a server, and those of its clients, by name."""

    def __init__(self, directory):
        self._server = KeyPair.generate()
        self._pairs = {}
        write_key_pair(directory / "server", self._server)
        self.path = f"{directory}/authorized/"
        self.security = {"secret_key": f"{directory}/server.key_secret", "authorized_keys": self.path}

    def authorize(self, *names, groups=()):
        """New keys for these."""
        for name in names:
            pair = self._pairs.setdefault(name, KeyPair.generate())
            authorize(self.path, name, pair.public, groups)

    def revoke(self, *names):
        """Remove their keys."""
        for name in names:
            revoke(self.path, name)

    def of(self, name):
        """The options of a client with the key of somebody."""
        return with_key(self._pairs[name], self._server.public)


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


# Revoked keys ------------------------------------------------------------------------------------------------------


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
        spin_until(lambda: guard._hear() and len(guard._connections) == 1 and zap.has_input())
        wait_until(lambda: not zap.has_input())
        with closing(Connection(endpoint)):
            wait_until(lambda: len(guard._connections) == 2)
            proxy.resume()
            assert slow.receive() == "it is me"
            keys.revoke("mallory")
            slow.hear("DISCONNECTED")


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


def test_when_nobody_can_decide_nobody_comes_in_until_somebody_can(keys, start_secured, new, monkeypatch, caplog):
    """An error is told, and is not the end of whoever decides."""
    service = start_secured(AllKinds, keys.security)
    endpoint = service.endpoints["it"]["rep"]
    with monkeypatch.context() as broken:
        broken.setattr(service.servers["it"].sockets.rep.guard, "gate", None)
        assert new("req", endpoint, **keys.of("alice")).shake_hands() == "HANDSHAKE_FAILED_AUTH"
    assert "cannot decide about somebody who wants to connect: Traceback" in caplog.text
    assert new("req", endpoint, **keys.of("alice")).ask("hello") == "hello"


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
