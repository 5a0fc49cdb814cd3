"""Servers that connect to others with keys: the log says who refuses them, and they come in when that was mended."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dploylib.security import KeyPair, authorize, revoke, write_key_pair
from dploylib.servers import Server, bind, connect_in
from dploylib.services import Service

ANYWHERE = "tcp://127.0.0.1:*"
PATIENCE = 20.0  # seconds; an upper bound, on a loaded machine too

pytestmark = pytest.mark.usefixtures("leak_check")


class Press(Server):
    news = bind("news", "push")


class Reader(Server):
    def setup(self):
        self.read = []

    @connect_in("news", "pull")
    def take(self, socket, received):
        self.read.append(received.text)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, KeyPair]:
    monkeypatch.chdir(tmp_path)
    made = {name: KeyPair.generate() for name in ("north", "south", "reader", "other")}
    for name, pair in made.items():
        write_key_pair(name, pair)
    authorize("authorized/", "other", made["other"].public)
    return made


@pytest.fixture
def services() -> Iterator[list[Service]]:
    started: list[Service] = []
    yield started
    for service in reversed(started):
        service.stop(0)


@pytest.fixture
def start(services: list[Service]):
    def start(cls: type[Server], uri: str | list[str], **security: Any) -> Service:
        service = Service()
        service.add_server("it", cls)
        services.append(service)
        return service.start(config_dict={"security": security, "servers": {"it": {"news": {"uri": uri}}}})

    return start


def press(start: Any, name: str) -> Service:
    return start(Press, ANYWHERE, secret_key=f"{name}.key_secret", authorized_keys="authorized")


def reader(start: Any, uri: str | list[str], *keys: str) -> Service:
    return start(Reader, uri, secret_key="reader.key_secret", server_key=list(keys))


def publish(service: Service, text: str) -> None:
    service.servers["it"].sockets.news.send_text(text, timeout=PATIENCE)


def test_a_server_that_is_refused_comes_in_when_it_is_authorized(start, pairs, caplog, wait_until):
    caplog.set_level(logging.INFO)
    north = press(start, "north")
    south = reader(start, north.endpoints["it"]["news"], "north.key")
    wait_until(lambda: "the server does not let this client in with its key SHA256:" in caplog.text)
    authorize("authorized/", "reader", pairs["reader"].public)
    publish(north, "one")
    wait_until(lambda: south.servers["it"].read == ["one"])
    wait_until(lambda: f"it.news: {north.endpoints['it']['news']}: connected" in caplog.text)
    revoke("authorized/", "reader")
    caplog.clear()
    wait_until(lambda: "the server does not let this client in" in caplog.text)
    authorize("authorized/", "reader", pairs["reader"].public)
    publish(north, "two")
    wait_until(lambda: south.servers["it"].read == ["one", "two"])


def test_servers_with_different_keys_are_connected_to_by_one_socket(start, pairs, wait_until):
    authorize("authorized/", "reader", pairs["reader"].public)
    presses = [press(start, "north"), press(start, "south")]
    read = reader(start, [one.endpoints["it"]["news"] for one in presses], "north.key", "south.key").servers["it"].read
    for number, one in enumerate(presses):
        publish(one, str(number))
    wait_until(lambda: sorted(read) == ["0", "1"])


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ({"secret_key": "reader.key_secret", "server_key": "south.key"}, "does not have the key that was expected"),
        ({"username": "reader", "password": "hunter2"}, "the server wants CURVE"),
        ({"mechanism": "none"}, "the server wants CURVE, and this client has no key"),
    ],
)
def test_the_log_says_what_is_wrong(start, pairs, caplog, security, words, wait_until):
    authorize("authorized/", "reader", pairs["reader"].public)
    north = press(start, "north")
    start(Reader, north.endpoints["it"]["news"], **security)
    wait_until(lambda: words in caplog.text)
    assert f"it.news: {north.endpoints['it']['news']}: " in caplog.text
    assert "hunter2" not in caplog.text


def test_a_server_that_is_not_there_yet_is_connected_to_when_it_is(start, pairs, tmp_path, wait_until):
    authorize("authorized/", "reader", pairs["reader"].public)
    uri = f"ipc://{tmp_path}/news"
    read = reader(start, uri, "north.key").servers["it"].read
    publish(start(Press, uri, secret_key="north.key_secret", authorized_keys="authorized"), "hello")
    wait_until(lambda: read == ["hello"])
