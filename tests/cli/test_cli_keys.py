"""`dploylib keygen` and `dploylib key`, run as a user runs them."""

import os
import re
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from zmq.auth import create_certificates, load_certificate

from dploylib.cli.exit_codes import ExitCode
from dploylib.security import KeyPair, fingerprint, read_certificate

pytestmark = pytest.mark.once("commands run in interpreters of their own, and patch nothing")


class Keys:
    """Runs the commands in a directory, and checks what is true of all of them: no secret, no traceback."""

    def __init__(self, run: Callable[..., "subprocess.CompletedProcess[bytes]"], directory: Path) -> None:
        self._run = run
        self.directory = directory

    def __call__(self, *arguments: str, code: int = ExitCode.OK) -> str:
        """What a command prints: to stdout if it succeeds, else to stderr."""
        done = self._run(*arguments)
        output, errors = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, errors
        assert "Traceback" not in errors
        for file in self.directory.rglob("*.key_secret"):
            found = re.search(r'secret-key = "(.*)"', file.read_text())
            assert not found or found[1] not in output + errors
        assert bool(errors) is (code != ExitCode.OK)
        return errors if code else output


@pytest.fixture
def keys(dploylib, directory) -> Keys:
    return Keys(dploylib, directory)


def permissions(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def shown(path: Path, groups: str = "-") -> list[str]:
    """The columns of `key show` for a file of a key."""
    one = read_certificate(path)
    return [one.name, groups, fingerprint(one.credential), one.credential]


def test_keygen_makes_two_files_and_says_what_they_are_for(keys, directory):
    lines = keys("keygen", "alice").splitlines()
    pair = KeyPair.read(directory / "alice.key_secret")
    assert lines[0] == fingerprint(pair.public)
    assert lines[1].startswith("alice.key: the public key.")
    assert lines[2].startswith("alice.key_secret: the secret key.")
    assert (permissions(directory / "alice.key"), permissions(directory / "alice.key_secret")) == (0o644, 0o600)
    assert load_certificate(directory / "alice.key") == (pair.public.encode(), None)


def test_keygen_takes_a_path(keys, directory):
    (directory / "deep").mkdir()
    keys("keygen", "deep/alice")
    assert read_certificate(directory / "deep" / "alice.key").name == "alice"
    assert "cannot write nowhere/alice.key_secret: there is no directory nowhere; make it first" in keys(
        "keygen", "nowhere/alice", code=3
    )


@pytest.mark.parametrize("there", ["alice.key", "alice.key_secret"])
def test_keygen_overwrites_nothing(keys, directory, there):
    (directory / there).write_text("precious")
    before = sorted(os.listdir(directory))
    error = keys("keygen", "alice", code=ExitCode.CONFIGURATION)
    assert error == f"Error: {there} is there already, and is not overwritten\n"
    assert (directory / there).read_text() == "precious"
    assert sorted(os.listdir(directory)) == before


def test_keygen_refuses_what_is_no_name(keys):
    assert "Error: 'al ice' is no name: a name is printable, " in keys("keygen", "al ice", code=3)


def test_a_key_is_shown_without_its_secret(keys, directory):
    keys("keygen", "alice")
    expected = shown(directory / "alice.key")
    assert keys("key", "show", "alice.key").split() == expected
    assert keys("key", "show", "alice.key_secret").split() == expected


def test_keys_of_pyzmq_are_shown_and_authorized(keys, directory):
    public, _ = create_certificates(directory, "bob")
    keys("key", "authorize", "authorized/", "bob.key")
    assert load_certificate(directory / "authorized" / "bob.key") == load_certificate(public)


@pytest.mark.parametrize("where", ["authorized/", "authorized"])
def test_a_client_is_authorized_shown_and_revoked(keys, directory, where):
    for name in ("alice", "bob"):
        keys("keygen", name)
    alice, bob = shown(directory / "alice.key", "admins,staff"), shown(directory / "bob.key")
    line = keys("key", "authorize", where, "alice.key", "--group", "staff", "--group", "admins")
    place = "authorized/alice.key" if where.endswith("/") else where
    assert line == f"alice is authorized in {place}: {alice[2]}\n"
    keys("key", "authorize", where, "bob.key", "--name", "robert")
    assert [row.split() for row in keys("key", "show", where).splitlines()] == [alice, ["robert", *bob[1:]]]
    assert keys("key", "revoke", where, "robert") == f"robert was removed from {where}: {bob[2]}\n"
    assert keys("key", "revoke", where, alice[2]) == f"alice was removed from {where}: {alice[2]}\n"
    keys("key", "authorize", where, "bob.key")
    assert keys("key", "revoke", where, "bob.key") == f"bob was removed from {where}: {bob[2]}\n"
    assert keys("key", "show", where) == ""
    assert keys("key", "revoke", where, "alice", code=3).startswith(
        f"Error: {where} has no key of alice: expected the name, fingerprint or key of somebody"
    )


def test_a_key_by_itself_is_authorized_with_a_name(keys, directory):
    key = "-" + "0" * 39  # one that looks like an option
    assert "give --name NAME" in keys("key", "authorize", "list", "--", key, code=ExitCode.USAGE)
    keys("key", "authorize", "list", "--name", "alice", "--group", "staff", "--", key)
    assert (directory / "list").read_text() == f"alice {key} staff\n"
    assert keys("key", "revoke", "list", "--", key).startswith("alice was removed from list: SHA256:")


def test_a_secret_key_is_not_authorized_whatever_its_file_is_called(keys, directory):
    keys("keygen", "alice")
    (directory / "renamed.key").write_text((directory / "alice.key_secret").read_text())
    for file in ("alice.key_secret", "renamed.key"):
        error = keys("key", "authorize", "authorized/", file, code=ExitCode.CONFIGURATION)
        assert error.startswith(f"Error: {file} has a secret key, which stays where it is: ")
        assert "NAME.key" in error
    assert not (directory / "authorized").exists()


def test_groups_that_a_client_has_given_itself_do_not_count(keys, directory):
    keys("keygen", "alice")
    file = directory / "alice.key"
    file.write_text(file.read_text().replace("curve\n", '    groups = "admins"\ncurve\n'))
    assert keys("key", "show", "alice.key").split()[1] == "admins"
    keys("key", "authorize", "list", "alice.key")
    assert keys("key", "show", "list").split()[1] == "-"


def test_nobody_is_authorized_twice(keys):
    keys("keygen", "alice")
    keys("key", "authorize", "list", "alice.key")
    assert keys("key", "authorize", "list", "alice.key", "--name", "bob", code=3) == (
        "Error: alice is authorized in list:1 already, with this key; revoke it first\n"
    )


def test_show_shows_what_it_can_and_names_everything_that_is_wrong(keys, directory):
    keys("keygen", "alice")
    (directory / "list").write_text("broken\n")
    (directory / "authorized").mkdir()
    (directory / "authorized" / "new\nline.key").touch()
    done = keys._run("key", "show", "nowhere.key", "list", "alice.key", "authorized")
    assert done.returncode == ExitCode.CONFIGURATION
    assert done.stdout.decode().split() == shown(directory / "alice.key")
    assert done.stderr.decode().splitlines() == [
        "Error: cannot read the public key in nowhere.key: No such file or directory",
        "list:1: expected NAME KEY, or NAME KEY GROUP,GROUP; found 1 word",
        "authorized/new\\nline.key has no public key: expected a file that dploylib keygen made (NAME.key)",
    ]


def test_help_leads_to_files(keys):
    for command in ((), ("authorize",)):
        assert "'single quotes'" in re.sub(r"\s+", " ", keys("key", *command, "--help"))
