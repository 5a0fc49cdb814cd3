"""No secret is in anything that a service or a command says, whatever goes wrong, at the level that says most."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zmq.utils import z85

from dploylib.security import KeyPair, authorize, write_key_pair

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 30  # seconds

pytestmark = pytest.mark.once("commands run in interpreters of their own, and patch nothing")

SERVICE = """
import os
import gevent
from dploylib import Server, Service, servers
from dploylib.services import ProcessServerCoordinator


class Curve(Server):
    @servers.bind_in("ask", "rep")
    @servers.allow("cooks")
    def ask(self, socket, received):
        raise RuntimeError(f"{self.settings!r} {self.sockets.ask!r} {self.context!r} {received!r} {received.peer!r}")


class Plain(Server):
    out = servers.connect("out", "push")

    def setup(self):
        self.spawn(self.die)

    def die(self):
        while not os.path.exists("die"):
            gevent.sleep(0.01)
        raise RuntimeError(f"{self.settings!r} {self.sockets.out!r} {self.settings.security('out')!r} {vars(self)}")


service = Service(coordinator=COORDINATOR)
service.add_server("curve", Curve)
service.add_server("plain", Plain)
"""
CONFIG = """
security:
  secret_key: server.key_secret
  authorized_keys: authorized
  servers:
    plain: {mechanism: plain, username: ann, password: "${PASSWORD}"}
servers:
  curve:
    ask: {uri: "tcp://127.0.0.1:*", options: {plain_password: "${PASSWORD}"}}
  plain:
    out: {uri: "ipc://nowhere"}
supervision:
  plain: {restart: on-failure, intensity: 2, backoff: 0.01}
general:
  db_password: "${PASSWORD}"
"""


class Secrets:
    """What is secret, in every form that it may be seen in, and what was said so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.password = "correct horse battery staple"
        self.said = ""
        pairs = {name: KeyPair.generate() for name in ("server", "cook", "guest", "other")}
        for name, pair in pairs.items():
            write_key_pair(directory / name, pair)
        authorize(f"{directory}/authorized/", "cook", pairs["cook"].public, ["cooks"])
        authorize(f"{directory}/authorized/", "guest", pairs["guest"].public)
        texts = [self.password, *(pair.secret.decode() for pair in pairs.values())]
        raw = [text.encode() for text in texts] + [z85.decode(text) for text in texts[1:]]
        self.forms = {*texts, *(one.hex() for one in raw), *(base64.b64encode(one).decode() for one in raw)}
        self.forms |= {repr(one)[2:-1] for one in raw} | {json.dumps(text)[1:-1] for text in texts}

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PASSWORD": self.password}

    def run(self, *arguments: str) -> int:
        done = subprocess.run(
            [sys.executable, "-m", "dploylib", *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        self.said += f"$ {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.returncode

    def check(self) -> None:
        found = [form for form in self.forms if form in self.said]
        assert not found, self.said


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[Secrets]:
    made = Secrets(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    yield made
    assert made.said
    made.check()


def lines_of(secrets: Secrets, process: Any) -> Iterator[dict[str, Any]]:
    for line in process.stderr:
        secrets.said += line
        yield json.loads(line)


@pytest.mark.parametrize("coordinator", ["None", "ProcessServerCoordinator()"])
def test_a_service_that_refuses_and_crashes_tells_no_secret(secrets, coordinator):
    (secrets.directory / "service.py").write_text(SERVICE.replace("COORDINATOR", coordinator))
    command = ["run", "service.py", "-c", "config.yaml", "--log-level", "debug", "--log-format", "json"]
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-m", "dploylib", *command],
        cwd=secrets.directory,
        env=secrets.environment | {"PYTHONFAULTHANDLER": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines = lines_of(secrets, process)
        uri = next(one["message"].rpartition(" ")[2] for one in lines if "curve.ask is at" in one["message"])
        server = ["--server-key", "server.key", "-v", "--timeout", "20"]
        assert secrets.run("call", uri, "x", *server, "--key", "cook.key_secret") == 6  # the handler fails
        assert secrets.run("call", uri, "x", *server, "--key", "guest.key_secret") == 6  # it is for others
        assert secrets.run("call", uri, "x", *server, "--key", "other.key_secret") == 7
        assert secrets.run("call", uri, "x", "--server-key", "other.key", "--key", "cook.key_secret") == 7
        assert secrets.run("call", uri, "x", "-v") == 7
        (secrets.directory / "die").touch()
        assert list(lines)  # to its end: the other server died too often
        assert process.wait(PATIENCE) == 1
    for word in ("RuntimeError", "key not authorized", "forbidden", "a wrong server key", "Traceback"):
        assert word in secrets.said


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"password: ": "passwrd: "},
        {"mechanism: plain": "mechanism: curve"},
        {'password: "${PASSWORD}"}': 'password: ["${PASSWORD}"]}'},
        {"secret_key: server.key_secret": "secret_key: config.yaml"},
        {"secret_key: server.key_secret": "secret_key: '${PASSWORD}'"},
        {"authorized_keys: authorized": "authorized_keys: server.key_secret"},
        {'uri: "ipc://nowhere"': 'uri: "tcp://192.0.2.1:1"'},
        {"options: {plain_password:": "options: {plain_passwrd:"},
        {'options: {plain_password: "${PASSWORD}"': 'options: {curve_secretkey: "${PASSWORD}"'},
        {'options: {plain_password: "${PASSWORD}"}': 'options: [[curve_secretkey, "${PASSWORD}", 5]]'},
        {"general:": "general: {"},
    ],
)
def test_a_configuration_that_is_wrong_or_printed_tells_no_secret(secrets, change):
    text = CONFIG
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (secrets.directory / "config.yaml").write_text(text)
    (secrets.directory / "service.py").write_text(SERVICE.replace("COORDINATOR", "None"))
    assert secrets.run("check", "service.py", "-c", "config.yaml", "--print-config") == (3 if change else 0)
    assert secrets.run("check", "service.py", "-c", "config.yaml", "--set", f"general.db_token={secrets.password}") in (
        0,
        3,
    )
    secrets.said = secrets.said.replace(f"--set general.db_token={secrets.password}", "")  # what was typed


def test_the_commands_for_keys_tell_no_secret(secrets):
    secret = (secrets.directory / "server.key_secret").read_text().rpartition("secret-key = ")[2].strip('"\n ')
    assert secrets.run("keygen", "server") == 3
    assert secrets.run("key", "show", "server.key_secret", "server.key", "authorized") == 0
    assert secrets.run("key", "authorize", "authorized", "server.key_secret") == 3
    typed = ["key", "authorize", "authorized", "--name", "x", "--", secret]
    assert secrets.run(*typed) == 0  # nobody can tell a secret key from a public one
    assert secrets.run("key", "revoke", "authorized", "nobody") == 3
    os.chmod(secrets.directory / "server.key_secret", 0o644)
    assert secrets.run("key", "show", "server.key_secret") in (0, 3)
    assert secret in secrets.said  # it was typed, and became a public key by that
    secrets.said = secrets.said.replace(secret, "")
