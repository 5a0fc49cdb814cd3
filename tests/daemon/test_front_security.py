"""Who is behind a front: it looks at who connects, and workers know whose a message is."""

import gevent
import pytest
import zmq.green as zmq

from dploylib.security import KeyPair, Security, write_key_pair
from dploylib.security.authorized import authorize, revoke
from tests.daemon.conftest import ask, reply, request
from tests.daemon.test_front import kind_of


class Secured:
    """The keys of a service and of its clients."""

    def __init__(self, stage):
        self.stage = stage
        self.server = KeyPair.generate()
        _, secret = write_key_pair(str(stage.directory / "server"), self.server)
        self.authorized = str(stage.directory / "authorized") + "/"
        self.security = Security(secret_key=secret, authorized_keys=self.authorized)
        self.alice = self.let_in("alice", "admins")
        self.bob = self.let_in("bob")

    def let_in(self, name, *groups):
        pair = KeyPair.generate()
        authorize(self.authorized, name, pair.public, groups)
        return pair

    def client(self, uri, pair, kind="req"):
        client = self.stage.context.socket(getattr(zmq, kind.upper()))
        client.linger = 0
        client.curve_serverkey = self.server.public.encode()
        client.curve_publickey, client.curve_secretkey = pair.public.encode(), bytes(pair.secret)
        client.connect(uri)
        self.stage.clients.append(client)
        return client


@pytest.fixture
def secured(stage):
    return Secured(stage)


def test_workers_know_whose_a_message_is(stage, secured):
    uri = stage.lane("request", security=secured.security)
    stage.configure()
    stage.start_workers()
    assert ask(secured.client(uri, secured.alice), "peer") == "alice admins True 127.0.0.1"
    assert ask(secured.client(uri, secured.bob), "peer") == "bob  True 127.0.0.1"


def test_who_is_a_stranger_is_not_let_in(stage, secured):
    uri = stage.lane("request", security=secured.security)
    stage.configure()
    stage.start_workers()
    stranger, open_client = secured.client(uri, KeyPair.generate()), stage.client(uri)
    request(stranger, "peer")
    request(open_client, "peer")
    stage.wait_until(lambda: stage.status()["refused_connections"])
    assert ask(secured.client(uri, secured.bob), "peer").startswith("bob")
    assert stage.status()["received"] == 1


def test_a_handler_is_for_those_who_are_allowed(stage, secured):
    uri = stage.lane("admin", security=secured.security)
    stage.configure()
    stage.start_workers(1, "admin")
    assert ask(secured.client(uri, secured.alice), "echo yes") == "yes"
    bob = secured.client(uri, secured.bob)
    request(bob, "echo yes")
    assert kind_of(reply(bob)) == "forbidden"


def test_what_somebody_has_in_queues_who_was_put_out_is_not_handled(stage, secured):
    """Neither what waits in the front, nor what a worker has already."""
    uri = stage.lane("jobs", "pull", security=secured.security)
    stage.configure()
    stage.start_workers(1, "jobs", general={"job_seconds": 1.5})
    pusher = secured.client(uri, secured.bob, "push")
    for number in range(10):
        pusher.send_multipart([b"", b"text/plain", b"bob %d" % number])
    stage.wait_until(lambda: stage.status("jobs")["in_flight"] == 2)
    revoke(secured.authorized, "bob")
    other = secured.client(uri, secured.alice, "push")
    gevent.sleep(1)  # the lists are looked at four times a second
    other.send_multipart([b"", b"text/plain", b"alice"])
    log = stage.directory / "log"
    stage.wait_until(lambda: log.exists() and "alice" in log.read_text())
    assert [line.split()[1:] for line in log.read_text().splitlines()] == [["bob", "0"], ["alice"]]
    stage.wait_until(lambda: stage.status("jobs")["in_flight"] == 0)
    assert stage.status("jobs")["problems"]["forbidden"] >= 1


def test_groups_are_those_that_somebody_is_in_when_he_is_handled(stage, secured):
    uri = stage.lane("admin", security=secured.security)
    stage.configure()
    stage.start_workers(1, "admin")
    alice = secured.client(uri, secured.alice)
    assert ask(alice, "echo yes") == "yes"
    revoke(secured.authorized, "alice")
    authorize(secured.authorized, "alice", secured.alice.public, ["others"])

    def is_refused():
        client = secured.client(uri, secured.alice)
        request(client, "echo yes")
        return kind_of(reply(client)) == "forbidden"

    stage.wait_until(is_refused)


def test_large_and_malformed_messages_of_known_peers_pass_too(stage, secured):
    uri = stage.lane("request", security=secured.security)
    stage.configure()
    stage.start_workers()
    client = secured.client(uri, secured.bob, "dealer")
    request(client, "echo " + "x" * 100_000)
    assert len(reply(client)[1]) == 100_000
    for frames in ([b"odd"], [b"", b""], [b""], [b"x"] * 300):
        client.send_multipart(frames)
        assert kind_of(reply(client)) == "malformed-envelope"
    assert ask(secured.client(uri, secured.bob), "peer").startswith("bob")
