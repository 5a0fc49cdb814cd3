"""Services that know who connects to them, and prove who they are, wherever their servers run."""

import json
from pathlib import Path

import pytest

from dploylib.security import KeyPair, authorize, fingerprint, revoke, write_key_pair
from tests.processes import starter
from tests.services.bare import bare_context, with_key, with_password
from tests.services.suite import Asks, Knows


@pytest.fixture
def start_peer():
    yield from starter(Path(__file__).parent / "peers")


@pytest.fixture
def server(tmp_path):
    """The key of a server, in `server.key_secret`; `authorized` is where those of its clients are."""
    pair = KeyPair.generate()
    write_key_pair(tmp_path / "server", pair)
    (tmp_path / "authorized").mkdir()
    return pair


@pytest.fixture
def start_secured(make_service, config_for):
    """`start_secured(security, knows=Knows)`: a service that is secured so, and runs."""

    def start(security, uris=None, **servers):
        service = make_service(**servers)
        given = {name: {socket: {"uri": uri} for socket, uri in (uris or {}).items()} for name in servers}
        return service.start(config_dict=config_for(service, **given) | {"security": security})

    return start


def test_a_service_knows_by_its_key_who_asks_and_lets_in_nobody_else(start_secured, server, tmp_path):
    alice, nobody = KeyPair.generate(), KeyPair.generate()
    authorize(str(tmp_path / "authorized"), "alice", alice.public, ["deployers", "admins"])
    service = start_secured(
        {"secret_key": f"{tmp_path}/server.key_secret", "authorized_keys": f"{tmp_path}/authorized"}, knows=Knows
    )
    endpoint = service.endpoints["knows"]["request"]
    with bare_context() as new:
        asked = new("req", endpoint, **with_key(nobody, server.public))
        asked.send("who am I?")
        assert asked.shake_hands() == "HANDSHAKE_FAILED_AUTH"
        assert json.loads(new("req", endpoint, **with_key(alice, server.public)).ask("who am I?")) == {
            "name": "alice",
            "groups": ["admins", "deployers"],
            "key": fingerprint(alice.public),
            "address": "127.0.0.1",
        }
        assert not asked.has_input()


def test_a_revoked_key_is_disconnected_wherever_the_server_runs(start_secured, server, tmp_path):
    keys = str(tmp_path / "authorized")
    alice, mallory = KeyPair.generate(), KeyPair.generate()
    authorize(keys, "alice", alice.public)
    authorize(keys, "mallory", mallory.public)
    service = start_secured({"secret_key": f"{tmp_path}/server.key_secret", "authorized_keys": keys}, knows=Knows)
    endpoint = service.endpoints["knows"]["request"]
    with bare_context() as new:
        one = new("req", endpoint, **with_key(alice, server.public))
        assert json.loads(one.ask("who am I?"))["name"] == "alice"
        other = new("req", endpoint, **with_key(mallory, server.public))
        assert json.loads(other.ask("who am I?"))["name"] == "mallory"
        revoke(keys, "mallory")
        other.hear("DISCONNECTED")
        assert json.loads(one.ask("who am I?"))["name"] == "alice"
        assert "DISCONNECTED" not in one.heard()


def test_a_service_knows_by_his_password_who_asks(start_secured, tmp_path):
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    passwords.write_text("alice secret deployers\n")
    service = start_secured({"passwords": str(passwords)}, knows=Knows)
    endpoint = service.endpoints["knows"]["request"]
    with bare_context() as new:
        asked = new("req", endpoint, **with_password("alice", "guessed"))
        asked.send("who am I?")
        assert asked.shake_hands() == "HANDSHAKE_FAILED_AUTH"
        known = json.loads(new("req", endpoint, **with_password("alice", "secret")).ask("who am I?"))
        assert known == {"name": "alice", "groups": ["deployers"], "key": "", "address": "127.0.0.1"}
        assert not asked.has_input()


def test_nobody_is_known_where_everybody_is_let_in(start_secured):
    service = start_secured({}, knows=Knows)
    with bare_context() as new:
        answer = new("req", service.endpoints["knows"]["request"]).ask("who am I?")
        assert json.loads(answer)["type"] == "urn:dploylib:no-reply"  # received.peer was None


def test_sockets_that_connect_prove_who_they_are_to_any_server_with_curve(
    start_secured, server, start_peer, tmp_path, flags, wait_until
):
    """The server is of pyzmq alone, with the key files of dploylib: they are the same."""
    ours, nobody = KeyPair.generate(), KeyPair.generate()
    write_key_pair(tmp_path / "ours", ours)
    write_key_pair(tmp_path / "nobody", nobody)
    authorize(str(tmp_path / "authorized"), "ours", ours.public)
    peer = start_peer("stock_server.py", tmp_path / "authorized", tmp_path / "server.key_secret")
    endpoints = json.loads(peer.line())
    uris = {"question": endpoints["REP"], "work": endpoints["PULL"], "news": endpoints["PUB"]}
    refused = start_secured(
        {"secret_key": f"{tmp_path}/nobody.key_secret", "server_key": server.public}, uris, asks=Asks
    )
    assert refused.state.value == "running"
    assert flags.events.lines() == []
    start_secured(
        {"secret_key": f"{tmp_path}/ours.key_secret", "server_key": f"{tmp_path}/server.key"}, uris, asks=Asks
    )
    assert peer.line() == "from a push"
    wait_until(lambda: {"from a dealer", "from a pub"} <= set(flags.events.lines()))
    # The first service has asked and pushed as well, and before.
    assert flags.events.lines().count("from a dealer") == 1
