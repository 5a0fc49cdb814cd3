"""What who is known may do, and for how long: groups, networks, revoked keys, and what peers say of themselves."""

from contextlib import closing

import pytest

from dploylib.security import KeyPair, authorize, revoke, write_key_pair
from dploylib.servers import Server, bind, bind_in
from dploylib.testing import FlakyProxy
from tests.hard.zmtp import Connection
from tests.services.bare import bare_context, with_key

pytestmark = pytest.mark.usefixtures("leak_check")

ANYWHERE = "tcp://127.0.0.1:*"


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
