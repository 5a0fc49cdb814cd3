"""`dploylib call`, `send` and `listen` with keys and passwords, against servers that look at who connects."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.subprocess
import pytest

from dploylib.security import KeyPair, fingerprint, write_key_pair
from tests.clients.secured import PATIENCE, Secured, User, starting

pytestmark = pytest.mark.once("commands run in interpreters of their own, and patch nothing")

ROOT = Path(__file__).parent.parent.parent
USER = User("ann", "correct horse battery staple")
SERVER, OTHER_SERVER, CLIENT, STRANGER = (KeyPair.generate() for _ in range(4))
PAIRS = {"server": SERVER, "other": OTHER_SERVER, "client": CLIENT, "stranger": STRANGER}
SECRETS = [USER.password, "wrong-password", *(pair.secret.decode() for pair in PAIRS.values())]


@pytest.fixture
def files(tmp_path) -> Path:
    """A directory with keys and passwords, in which the commands run."""
    for name, pair in PAIRS.items():
        write_key_pair(tmp_path / name, pair)
    for name, password in {"password": f"{USER.password}\n", "wrong": "wrong-password\nmore\n", "empty": "\n"}.items():
        (tmp_path / name).write_text(password)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "open").write_text(USER.password)
    (tmp_path / "open").chmod(0o644)
    return tmp_path


@pytest.fixture
def secured() -> Iterator[Callable[..., Secured]]:
    with starting() as start:
        yield start


@pytest.fixture
def start(files) -> Iterator[Callable[..., Any]]:
    """`start("call", endpoint, "x")`: a command, which is killed at the end of the test."""
    processes = []

    def start(*arguments: str) -> Any:
        pipe = gevent.subprocess.PIPE
        processes.append(
            gevent.subprocess.Popen(
                [sys.executable, "-m", "dploylib", *arguments],
                cwd=files,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdin=gevent.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                text=True,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start) -> Callable[..., tuple[str, str, int]]:
    """Run a command to its end: what it prints to stdout and to stderr, and its exit status. No secret is in there."""

    def run(*arguments: str) -> tuple[str, str, int]:
        process = start(*arguments)
        with gevent.Timeout(3 * PATIENCE, AssertionError("the command does not end")):
            output, errors = process.communicate()
        for secret in SECRETS:
            assert secret not in output + errors
        return output, errors, process.returncode

    return run


COMMANDS = {
    "call": ("router", ["x", "-v"], "x\n"),
    "send": ("pull", ["x", "-v"], ""),
    "listen": ("pub", ["--count", "1"], "news text/plain sunny\n"),
}
each_command = pytest.mark.parametrize("command", COMMANDS)
RIGHT_KEY = ["--server-key", "server.key", "--key", "client.key_secret"]
RIGHT_PASSWORD = ["--username", "ann", "--password-file", "password"]


def server_for(secured: Callable[..., Secured], command: str, mechanism: str) -> Secured:
    settings: dict[str, dict[str, Any]] = {
        "curve": {"pair": SERVER, "authorized": {CLIENT.public}},
        "plain": {"users": {USER}},
        "open": {},
    }
    return secured(COMMANDS[command][0], **settings[mechanism])


@each_command
@pytest.mark.parametrize(
    ("mechanism", "options"),
    [
        ("curve", RIGHT_KEY),
        ("curve", ["--server-key", SERVER.public, "--key", "client.key_secret"]),
        ("curve", ["--server-key", "other.key", *RIGHT_KEY]),
        ("plain", RIGHT_PASSWORD),
    ],
    ids=["key file", "key", "second key", "password"],
)
def test_who_is_right_gets_through(secured, run, command, mechanism, options):
    server = server_for(secured, command, mechanism)
    _, arguments, expected = COMMANDS[command]
    output, errors, status = run(command, server.endpoint, *arguments, *options, "--timeout", "30")
    assert (output, status) == (expected, 0), errors
    if command == "send":
        with gevent.Timeout(PATIENCE, AssertionError("nothing arrives")):
            while server.pulled != [b"x"]:
                gevent.sleep(0.002)


@pytest.mark.parametrize("command", ["call", "listen"])
@pytest.mark.parametrize(
    ("mechanism", "options", "known"),
    [
        ("curve", [], "the server wants CURVE, and this client has no key: give security="),
        ("curve", RIGHT_PASSWORD, "the server wants CURVE, and this client has a user name and a password (PLAIN)"),
        (
            "curve",
            ["--server-key", "server.key", "--key", "stranger.key_secret"],
            f"the server does not let this client in with its key {fingerprint(STRANGER.public)}",
        ),
        ("curve", ["--server-key", "server.key"], "the server does not let this client in: it wants an authorized key"),
        (
            "curve",
            ["--server-key", "other.key", "--key", "client.key_secret"],
            f"the server does not have the key that was expected (server_key), {fingerprint(OTHER_SERVER.public)}",
        ),
        ("plain", ["--username", "ann", "--password-file", "wrong"], "does not let this client in as user 'ann'"),
        ("plain", RIGHT_KEY, "the server wants PLAIN, and this client has a server key (CURVE)"),
        ("open", RIGHT_KEY, "the server speaks no CURVE: it is open (NULL)"),
    ],
    ids=[
        "nothing",
        "password for curve",
        "stranger",
        "no key",
        "wrong server",
        "wrong password",
        "key for plain",
        "open",
    ],
)
def test_everybody_else_is_told_in_one_line_and_at_once(secured, run, command, mechanism, options, known):
    """There is no --timeout to listen, which would wait for ever."""
    server = server_for(secured, command, mechanism)
    timeout = [] if command == "listen" else ["--timeout", "1000"]
    output, errors, status = run(command, server.endpoint, *COMMANDS[command][1], *options, *timeout)
    assert (output, status) == ("", 7), errors
    *verbose, error = errors.splitlines()
    assert error.startswith(f"Error: {server.endpoint}: ")
    assert known in error
    assert all(line.startswith("> ") for line in verbose)  # the envelope of `call -v`


def test_a_listener_that_is_not_let_in_any_more_ends(secured, start):
    server = server_for(secured, "listen", "curve")
    listening = start("listen", server.endpoint, *RIGHT_KEY)
    with gevent.Timeout(3 * PATIENCE, AssertionError("it does not end")):
        assert listening.stdout.readline() == "news text/plain sunny\n"
        server.close()
        secured("pub", server.endpoint, pair=SERVER)
        _, errors = listening.communicate()
    assert (listening.returncode, errors.count("\n")) == (7, 1)
    assert "the server does not let this client in with its key" in errors


def test_a_listener_goes_on_when_the_server_changes_its_key(secured, start):
    server = secured("pub", pair=OTHER_SERVER, authorized={CLIENT.public})
    listening = start("listen", server.endpoint, "--server-key", "other.key", *RIGHT_KEY)
    with gevent.Timeout(3 * PATIENCE, AssertionError("it does not go on")):
        assert listening.stdout.readline() == "news text/plain sunny\n"
        server.close()
        news = [b"later", b"text/plain", b"rain"]
        secured("pub", server.endpoint, pair=SERVER, authorized={CLIENT.public}, news=news)
        while (line := listening.stdout.readline()) != "later text/plain rain\n":
            assert line == "news text/plain sunny\n"


@each_command
@pytest.mark.parametrize(
    ("options", "known"),
    [
        (["--server-key", "nobody.key"], "nobody.key"),
        (["--server-key", "server.key", "--key", "client.key"], "client.key"),
        (["--username", "ann", "--password-file", "open"], "others may read the password in open"),
        (["--username", "ann", "--password-file", "empty"], "there is no password in the first line of empty"),
        (["--username", "ann", "--password-file", "./none"], "cannot read the password in ./none: No such file"),
    ],
)
def test_files_that_cannot_be_used_are_told_as_settings_are(run, command, options, known):
    arguments = [] if command == "listen" else ["x"]
    output, errors, status = run(command, "tcp://127.0.0.1:1", *arguments, *options)
    assert (output, status) == ("", 3)
    assert known in errors
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1


@each_command
@pytest.mark.parametrize(
    ("options", "known"),
    [
        (["--key", "client.key_secret"], "give --server-key, too"),
        (["--username", "ann"], "belong together"),
        (["--password-file", "password"], "belong together"),
        ([*RIGHT_KEY, *RIGHT_PASSWORD], "--server-key is for CURVE and --username for PLAIN"),
    ],
)
def test_half_of_what_is_needed_and_twice_as_much_are_wrong_usage(run, command, options, known):
    arguments = [] if command == "listen" else ["x"]
    output, errors, status = run(command, "tcp://127.0.0.1:1", *arguments, *options)
    assert (output, status) == ("", 2)
    assert known in errors


def test_who_binds_has_no_server_to_prove_anything_to(run):
    _, errors, status = run("listen", "tcp://127.0.0.1:*", "--bind", *RIGHT_KEY)
    assert "not for --bind" in errors
    assert status == 2


def test_a_password_goes_to_another_machine_only_if_that_is_said(run):
    arguments = ["tcp://192.0.2.1:5000", "x", "--timeout", "0.1", *RIGHT_PASSWORD]
    _, errors, status = run("call", *arguments)
    assert (status, errors.count("\n")) == (7, 1)
    assert "with PLAIN the password goes over the network for anybody to read" in errors
    _, errors, status = run("call", *arguments, "--insecure")
    assert status == 5, errors  # nobody is there
