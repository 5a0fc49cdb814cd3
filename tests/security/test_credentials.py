"""What sockets are set to, and whom a gate lets in."""

import base64
import ipaddress
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from dploylib.cli import cli
from dploylib.errors import SecurityError
from dploylib.security import (
    Credentials,
    Gate,
    KeyPair,
    Peer,
    Security,
    authorize,
    fingerprint,
    leaves_machine,
    read_certificate,
    revoke,
    write_key_pair,
)
from dploylib.security.authorized import AuthorizedKeys, Passwords
from dploylib.security.credentials import Verdict

ADDRESS = "192.0.2.1"


def error_of(function, *arguments) -> SecurityError:
    with pytest.raises(SecurityError) as caught:
        function(*arguments)
    return caught.value


@pytest.fixture
def server(tmp_path) -> tuple[str, str]:
    """The files of a server's keys."""
    return write_key_pair(tmp_path / "server", KeyPair.generate())


@pytest.fixture
def client(tmp_path) -> tuple[str, str]:
    """The files of a client's keys."""
    return write_key_pair(tmp_path / "client", KeyPair.generate())


@pytest.fixture
def passwords(tmp_path) -> Path:
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    path.write_text("alice s3cret admins,staff\nbob s3cret\n")
    return path


@pytest.fixture
def context() -> Iterator["zmq.Context[Any]"]:
    context = zmq.Context()
    context.linger = 0
    context.rcvtimeo = context.sndtimeo = 20_000
    yield context
    context.destroy()


# Mechanisms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("security", "mechanism"),
    [
        (Security(), "none"),
        (Security(allow=["10.0.0.0/8"]), "none"),
        (Security(authorized_keys="any"), "curve"),
        (Security(server_key="0" * 40), "curve"),
        (Security(username="alice"), "plain"),
        (Security(passwords="x"), "plain"),
        (Security(mechanism="none", passwords="x", secret_key="x"), "none"),
        (Security(mechanism="plain", passwords="x", secret_key="x"), "plain"),
        (Security(mechanism="curve", passwords="x"), "curve"),
    ],
)
def test_the_mechanism_is_what_the_settings_are_for(security, mechanism):
    assert Credentials(security).mechanism == mechanism


def test_settings_for_two_mechanisms_have_to_say_which():
    error = error_of(Credentials, Security(secret_key="x", passwords="y"))
    assert str(error) == "secret_key is for CURVE and passwords for PLAIN: say which mechanism it is to be"
    assert error.setting == "mechanism"


@pytest.mark.parametrize(
    ("security", "setting"),
    [
        (Security(secret_key="nowhere"), "secret_key"),
        (Security(server_key="nowhere.key"), "server_key"),
        (Security(server_key=["0" * 40, "nowhere.key"]), "server_key"),
    ],
)
def test_an_error_about_a_file_names_its_setting(security, setting):
    assert error_of(Credentials, security).setting == setting


# Options -------------------------------------------------------------------------------------------------------


def exchange(context: "zmq.Context[Any]", bound: Credentials, connected: Credentials) -> bytes:
    """Send a message from a socket with these options to one with those, and return what arrived."""
    with context.socket(zmq.PULL) as pull, context.socket(zmq.PUSH) as push:
        for name, value in bound.bind_options():
            pull.set(getattr(zmq, name.upper()), value.encode() if isinstance(value, str) else value)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        for name, value in connected.connect_options():
            push.set(getattr(zmq, name.upper()), value.encode() if isinstance(value, str) else value)
        push.connect(f"tcp://127.0.0.1:{port}")
        push.send(b"hello")
        return pull.recv()


@pytest.mark.parametrize("own", [True, False])
def test_curve_over_real_sockets(context, server, client, own):
    bound = Credentials(Security(secret_key=server[1], authorized_keys="any"))
    connected = Credentials(Security(server_key=server[0], secret_key=client[1] if own else None))
    assert exchange(context, bound, connected) == b"hello"
    assert connected.key == (fingerprint(read_certificate(client[0]).credential) if own else "")


def test_no_security_over_real_sockets(context):
    assert exchange(context, Credentials(Security()), Credentials(Security(mechanism="none"))) == b"hello"


def test_options_of_plain():
    security = Security(username="alice", password="s3cret")
    assert Credentials(security).connect_options() == [
        ("plain_server", 0),
        ("plain_username", "alice"),
        ("plain_password", "s3cret"),
    ]
    assert Credentials(Security(passwords="x")).bind_options() == [("plain_server", 1)]


def test_secrets_among_options_are_masked(server):
    curve = Credentials(Security(secret_key=server[1], server_key=server[0]))
    plain = Credentials(Security(username="alice", password="s3cret"))
    assert repr(curve.connect_options()[-1]) == "('curve_secretkey', ***)"
    assert repr(curve.bind_options()[-1]) == "('curve_secretkey', ***)"
    assert repr(plain.connect_options()[-1]) == "('plain_password', ***)"


@pytest.mark.parametrize(
    ("security", "call", "setting"),
    [
        (Security(authorized_keys="any"), "connect_options", "server_key"),
        (Security(authorized_keys="any"), "bind_options", "secret_key"),
        (Security(server_key="0" * 40), "gate", "authorized_keys"),
        (Security(username="alice"), "connect_options", "password"),
        (Security(password="s3cret"), "connect_options", "username"),
        (Security(username="alice"), "gate", "passwords"),
        (Security(groups=["a"]), "gate", "groups"),
        (Security(groups=["a"], authorized_keys="any"), "gate", "groups"),
        (Security(authorized_keys="nowhere"), "gate", "authorized_keys"),
        (Security(passwords="./nowhere"), "gate", "passwords"),
    ],
)
def test_what_is_missing_for_a_socket_is_named(security, call, setting):
    error = error_of(getattr(Credentials(security), call))
    assert error.setting == setting
    assert setting in str(error) or "nowhere" in str(error)


def test_of_several_server_keys_each_has_its_turn(server):
    keys = [KeyPair.generate().public, server[0], KeyPair.generate().public]
    credentials = Credentials(Security(server_key=keys))
    expected = [keys[0], read_certificate(server[0]).credential, keys[2]]
    turns = [dict(credentials.at(turn).connect_options())["curve_serverkey"] for turn in range(4)]
    assert turns == [*expected, expected[0]]
    assert list(credentials.server_keys) == expected
    one = Credentials(Security(server_key=keys[0]))
    assert one.at(5) is one


@pytest.mark.parametrize(
    ("settings", "uri", "flawed"),
    [
        ({"username": "a"}, "tcp://10.0.0.1:1", True),
        ({"passwords": "x"}, "tcp://*:1", True),
        ({"username": "a"}, "tcp://127.0.0.1:1", False),
        ({"username": "a", "insecure": True}, "tcp://10.0.0.1:1", False),
        ({"server_key": "0" * 40}, "tcp://10.0.0.1:1", False),
        ({}, "tcp://10.0.0.1:1", False),
    ],
)
def test_a_password_does_not_leave_the_machine_unless_that_is_said(settings, uri, flawed):
    flaw = Credentials(Security(**settings)).flaw_of(uri)
    assert (flaw is not None) is flawed
    assert flaw is None or "use CURVE, or say insecure: true" in flaw


def test_permissions_of_ipc_files():
    assert Credentials(Security()).ipc_permissions == 0o600
    assert Credentials(Security(ipc_permissions="0660")).ipc_permissions == 0o660


# Who may come in -----------------------------------------------------------------------------------------------


def gate(**settings: object) -> Gate:
    found = Credentials(Security(**settings)).gate()
    assert found is not None
    return found


def admits(gate: Gate, address: str) -> str:
    """The reason against an address, '' if there is none."""
    verdict = gate.admit(address, "NULL", [])
    assert (verdict.id is None) == bool(verdict.reason)
    return verdict.reason


def test_without_anything_to_look_at_there_is_no_gate():
    assert Credentials(Security()).gate() is None
    assert Credentials(Security(mechanism="none", insecure=True)).gate() is None


@pytest.mark.parametrize("setting", [{"allow": []}, {"deny": []}, {"max_connections_per_address": 5}])
def test_whatever_looks_at_addresses_needs_a_gate(setting):
    assert gate(**setting).max_connections == setting.get("max_connections_per_address", 1000)
    assert not gate(**setting).names_peers


@pytest.mark.parametrize(
    ("allow", "deny", "address", "reason"),
    [
        (["10.0.0.0/8"], None, "10.1.2.3", ""),
        (["10.0.0.0/8"], None, "11.1.2.3", "address not allowed"),
        (["10.0.0.0/8"], None, "::ffff:10.1.2.3", ""),
        (["10.0.0.0/8"], None, "::ffff:11.1.2.3", "address not allowed"),
        (["::ffff:10.0.0.0/104"], None, "10.1.2.3", ""),
        (["::ffff:10.0.0.0/104"], None, "::ffff:10.1.2.3", ""),
        (["::ffff:10.0.0.0/104"], None, "::ffff:11.1.2.3", "address not allowed"),
        (["10.1.2.3"], None, "10.1.2.3", ""),
        (["10.1.2.3"], None, "10.1.2.4", "address not allowed"),
        (["2001:db8::/32"], None, "2001:db8::1", ""),
        (["2001:db8::/32"], None, "2001:db9::1", "address not allowed"),
        (["2001:db8::/32"], None, "10.1.2.3", "address not allowed"),
        (["fe80::/10"], None, "fe80::1%eth0", ""),
        ([], None, "10.1.2.3", "address not allowed"),
        ([], None, "", ""),  # by ipc
        (None, ["10.0.0.0/8"], "10.1.2.3", "address denied"),
        (None, ["10.0.0.0/8"], "::ffff:10.1.2.3", "address denied"),
        (None, ["::ffff:10.0.0.0/104"], "10.1.2.3", "address denied"),
        (None, ["::ffff:10.0.0.0/104"], "::ffff:10.1.2.3", "address denied"),
        (None, ["fe80::/10"], "fe80::1%eth0", "address denied"),
        (None, ["10.0.0.0/8"], "11.1.2.3", ""),
        (None, ["1000:1000:1000:1000:1000:1000:1000:0/112"], "1000:1000:1000:1000:1000:1000:1000:1", "address denied"),
        (None, ["::/0"], "::1", "address denied"),
        (None, ["0.0.0.0/0", "::/0"], "", ""),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.1.2.3", "address denied"),
        (["10.0.0.0/8"], ["10.1.0.0/16"], "10.2.2.3", ""),
        (["10.1.2.3"], ["10.0.0.0/8"], "10.1.2.3", "address denied"),
    ],
)
def test_addresses(allow, deny, address, reason):
    assert admits(gate(allow=allow, deny=deny, mechanism="none"), address) == reason


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
def test_what_is_denied_is_never_allowed(address, around, length):
    network = str(ipaddress.ip_network((around, min(length, around.max_prefixlen)), strict=False))
    denied = admits(gate(deny=[network]), str(address)) == "address denied"
    assert (admits(gate(allow=[network]), str(address)) == "") is denied
    assert admits(gate(allow=[network], deny=[network]), str(address)) != ""


def curve_gate(server: tuple[str, str], where: object, **settings: object) -> Gate:
    return gate(secret_key=server[1], authorized_keys=str(where), **settings)


def raw(key: str) -> list[bytes]:
    return [z85.decode(key)]


def test_authorized_keys_come_in_under_their_key(server, tmp_path, keys):
    authorize(f"{tmp_path}/list", "alice", keys[0], ["admins"])
    gate = curve_gate(server, tmp_path / "list")
    assert gate.names_peers
    assert gate.admit(ADDRESS, "CURVE", raw(keys[0])) == Verdict(keys[0], "", fingerprint(keys[0]))
    assert gate.admit(ADDRESS, "CURVE", raw(keys[1])) == Verdict(None, "key not authorized", fingerprint(keys[1]))
    assert gate.peer(keys[0], ADDRESS) == Peer("alice", frozenset({"admins"}), fingerprint(keys[0]), ADDRESS)
    assert gate.peer(keys[1], ADDRESS) == Peer("", frozenset(), fingerprint(keys[1]), ADDRESS)


def test_with_any_whoever_has_a_key_comes_in_nameless(server, keys):
    gate = curve_gate(server, "any")
    assert not gate.names_peers
    assert gate.admit(ADDRESS, "CURVE", raw(keys[0])) == Verdict(keys[0], "", fingerprint(keys[0]))
    assert gate.peer(keys[0], ADDRESS) == Peer("", frozenset(), fingerprint(keys[0]), ADDRESS)
    assert gate.revoked(pytest.fail) == {}


def test_a_key_that_is_denied_does_not_come_in_though_it_is_authorized(server, tmp_path, keys):
    authorize(f"{tmp_path}/list", "alice", keys[0])
    for where in (tmp_path / "list", "any"):
        gate = curve_gate(server, where, deny=[keys[0], "10.0.0.0/8"])
        assert gate.admit(ADDRESS, "CURVE", raw(keys[0])) == Verdict(None, "key denied", fingerprint(keys[0]))
        assert gate.admit("10.0.0.1", "CURVE", raw(keys[1])) == Verdict(None, "address denied")


def test_who_is_in_none_of_the_groups_does_not_come_in(server, tmp_path, keys):
    authorize(f"{tmp_path}/list", "alice", keys[0], ["admins", "staff"])
    authorize(f"{tmp_path}/list", "bob", keys[1])
    gate = curve_gate(server, tmp_path / "list", groups=["staff", "guests"])
    assert gate.admit(ADDRESS, "CURVE", raw(keys[0])).id == keys[0]
    reason = "bob is in none of the groups guests, staff"
    assert gate.admit(ADDRESS, "CURVE", raw(keys[1])) == Verdict(None, reason, fingerprint(keys[1]))
    assert curve_gate(server, tmp_path / "list", groups=[]).admit(ADDRESS, "CURVE", raw(keys[0])).id is None


@pytest.mark.parametrize("credentials", [[], [b""], [b"x" * 31], [b"x" * 33], [b"x" * 32, b"x"]])
def test_what_is_no_key_does_not_come_in(server, credentials):
    assert curve_gate(server, "any").admit(ADDRESS, "CURVE", credentials) == Verdict(None, "no key")


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN", "GSSAPI", ""])
def test_another_mechanism_does_not_come_in(server, mechanism):
    assert curve_gate(server, "any").admit(ADDRESS, mechanism, []) == Verdict(None, f"mechanism {mechanism}")
    assert gate(allow=["0.0.0.0/0"]).admit(ADDRESS, "CURVE", [b"x" * 32]) == Verdict(None, "mechanism CURVE")


def test_users_come_in_under_their_name_with_their_password(passwords):
    users = gate(passwords=str(passwords))
    assert users.admit(ADDRESS, "PLAIN", [b"alice", b"s3cret"]) == Verdict("alice", "", "user 'alice'")
    assert users.peer("alice", ADDRESS) == Peer("alice", frozenset({"admins", "staff"}), "", ADDRESS)
    assert users.peer("carol", ADDRESS) == Peer("", frozenset(), "", ADDRESS)


@pytest.mark.parametrize(
    ("user", "password"),
    [
        (b"alice", b"S3cret"),  # as long as the right one
        (b"alice", b"s3cre"),
        (b"alice", b"s3crets"),
        (b"alice", b""),
        (b"alice", b"***"),  # as the right one is shown
        (b"carol", b"s3cret"),
        (b"carol", b""),
        (b"", b""),
        (b"ALICE", b"s3cret"),
        (b"alice\x00", b"s3cret"),
        (b"\xff", b"s3cret"),
    ],
)
def test_a_wrong_password_and_a_user_that_is_not_there_are_told_alike(passwords, user, password):
    verdict = gate(passwords=str(passwords)).admit(ADDRESS, "PLAIN", [user, password])
    assert verdict == Verdict(None, "wrong user name or password", f"user {user.decode(errors='replace')!r}")


@pytest.mark.parametrize("credentials", [[], [b"alice"], [b"alice", b"s3cret", b""]])
def test_what_is_no_user_and_password_does_not_come_in(passwords, credentials):
    assert gate(passwords=str(passwords)).admit(ADDRESS, "PLAIN", credentials) == Verdict(
        None, "no user name and password"
    )


def test_a_long_user_name_is_cut_in_the_log(passwords):
    assert len(gate(passwords=str(passwords)).admit(ADDRESS, "PLAIN", [b"x" * 255, b""]).who) < 80


def test_users_are_in_groups_too(passwords):
    users = gate(passwords=str(passwords), groups=["admins"])
    assert users.admit(ADDRESS, "PLAIN", [b"alice", b"s3cret"]).id == "alice"
    assert users.admit(ADDRESS, "PLAIN", [b"bob", b"s3cret"]).reason == "bob is in none of the groups admins"
    assert users.admit(ADDRESS, "PLAIN", [b"bob", b"wrong"]).reason == "wrong user name or password"


# Revoking ------------------------------------------------------------------------------------------------------


def revoked(gate: Gate) -> set[str]:
    return {*gate.revoked(pytest.fail), *gate.revoked(pytest.fail)}


def test_whoever_is_revoked_or_leaves_its_groups_is_told_by_id(server, tmp_path, keys):
    path = f"{tmp_path}/list"
    for name, key in zip(("alice", "bob", "carol"), keys, strict=False):
        authorize(path, name, key, ["staff"])
    gate = curve_gate(server, path, groups=["staff"])
    assert revoked(gate) == set()
    revoke(path, "alice")
    revoke(path, "bob")
    authorize(path, "bob", keys[1], ["guests"])
    authorize(path, "dave", keys[3])
    assert revoked(gate) == {keys[0], keys[1]}
    assert gate.peer(keys[0], ADDRESS).groups == frozenset()
    assert gate.peer(keys[2], ADDRESS).name == "carol"
    assert revoked(gate) == set()


def test_another_name_for_the_same_key_revokes_nobody(server, tmp_path, keys):
    authorize(f"{tmp_path}/list", "alice", keys[0])
    gate = curve_gate(server, f"{tmp_path}/list")
    revoke(f"{tmp_path}/list", "alice")
    authorize(f"{tmp_path}/list", "alicia", keys[0])
    assert revoked(gate) == set()
    assert gate.peer(keys[0], ADDRESS).name == "alicia"


def test_who_has_another_password_now_is_revoked(passwords):
    users = gate(passwords=str(passwords))
    passwords.write_text("alice another-one admins\nbob s3cret\n")
    assert revoked(users) == {"alice"}
    assert users.admit(ADDRESS, "PLAIN", [b"alice", b"another-one"]).id == "alice"


# Secrets -------------------------------------------------------------------------------------------------------


def written_in_every_way(secret: bytes) -> set[bytes]:
    """A key or password as it may appear in an output."""
    forms = {secret, secret[4:-4]}
    if len(secret) == 40:
        forms.add(z85.decode(secret))
    ways = [lambda one: one, base64.b64encode, base64.urlsafe_b64encode, lambda one: one.hex().encode()]
    written = {way(form).rstrip(b"=") for form in forms for way in ways}
    return {*written, *(repr(form).encode() for form in written), *(form.upper() for form in written)}


def test_no_secret_is_in_the_output_of_anything_that_fails(server, client, tmp_path, monkeypatch, caplog):
    """Much that a person may do wrong, each with all that it prints, logs, raises and pickles."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    pair = KeyPair.read(client[1])
    secret, password = pair.secret.decode(), "correct-horse-battery-staple"
    (tmp_path / "passwords").touch(mode=0o600)
    (tmp_path / "passwords").write_text(f"alice {password}\nbob {password} {password}/ {password}\n,{password}\n")
    (tmp_path / "open").touch(mode=0o644)
    (tmp_path / "open").write_text(f"alice {password}\n")
    (tmp_path / "binary.key_secret").touch(mode=0o600)
    (tmp_path / "binary.key_secret").write_bytes(Path(client[1]).read_bytes() + b"\xff")
    (tmp_path / "twice.key_secret").touch(mode=0o600)
    (tmp_path / "twice.key_secret").write_text(Path(client[1]).read_text() * 2)
    other = (tmp_path / "other.key_secret", Path(client[1]).read_text().replace(pair.public, "0" * 40))
    other[0].touch(mode=0o600)
    other[0].write_text(other[1])
    (tmp_path / "readable.key_secret").touch(mode=0o644)
    (tmp_path / "readable.key_secret").write_text(Path(client[1]).read_text())
    plain = Security(username="alice", password=password)
    curve = Credentials(Security(secret_key=client[1], server_key=server[0]))
    (tmp_path / "right").touch(mode=0o600)
    (tmp_path / "right").write_text(f"alice {password}\n")
    users = gate(passwords="right")

    failing: list[Callable[[], object]] = [
        lambda: Security(mechanism=secret),
        lambda: Security(password=password * 20),
        lambda: Security(password=password.encode()),
        lambda: Security(password=[password]),
        lambda: Security(password={password: password}),
        lambda: Security(password=password, username=""),
        lambda: Security(password=password, nonsense=1),
        lambda: Security(password=password).password.nonsense,
        lambda: setattr(plain, "password", "another"),
        lambda: int(plain.password),
        lambda: plain + plain,
        lambda: {}[plain.password],
        lambda: Credentials(Security(secret_key=secret)),
        lambda: Credentials(Security(secret_key=f"{secret} ")),
        lambda: Credentials(Security(secret_key=f'"{secret}"')),
        lambda: Credentials(Security(secret_key=secret[1:])),
        lambda: Credentials(Security(secret_key="readable.key_secret")),
        lambda: Credentials(Security(secret_key="binary.key_secret")),
        lambda: Credentials(Security(secret_key="twice.key_secret")),
        lambda: Credentials(Security(secret_key="other.key_secret")),
        lambda: Credentials(Security(secret_key=client[1], password=password)),
        lambda: Credentials(Security(server_key=secret[1:])),
        lambda: Credentials(Security(server_key=[secret, secret[1:]])),
        lambda: Credentials(Security(authorized_keys=secret, secret_key=client[1])).gate(),
        lambda: Credentials(plain).bind_options() and Credentials(plain).gate(),
        lambda: Credentials(Security(password=password)).connect_options(),
        lambda: Credentials(Security(passwords="passwords")).gate(),
        lambda: Credentials(Security(passwords="open")).gate(),
        lambda: Passwords("binary.key_secret"),
        lambda: Passwords(client[1]),
        lambda: AuthorizedKeys(client[1]),
        lambda: AuthorizedKeys("right"),
        lambda: AuthorizedKeys(secret),
        lambda: authorize("list", "alice", secret[1:]),
        lambda: authorize("list", secret + "/", pair.public),
        lambda: authorize(client[1], "alice", pair.public),
        lambda: revoke("right", "bob"),
        lambda: write_key_pair(client[1].removesuffix(".key_secret"), pair),
        lambda: read_certificate("other.key_secret") and read_certificate("binary.key_secret"),
        lambda: fingerprint(secret[1:]),
        lambda: pickle.dumps(pair),
        lambda: pickle.dumps(curve),
        lambda: leaves_machine(pair),
        lambda: pair.nonsense,
        lambda: pair.secret + pair.public,
        lambda: users.nonsense,
        lambda: users.admit(ADDRESS, "PLAIN", [b"alice", b"wrong"]).nonsense,
        lambda: exec(
            "raise ValueError(plain, pair, curve, users, options, roster)",
            {
                "plain": plain,
                "pair": pair,
                "curve": curve,
                "users": users,
                "options": [*curve.connect_options(), *Credentials(plain).connect_options()],
                "roster": [*AuthorizedKeys("keys")._by_id.values()]
                if Path("keys").exists()
                else Passwords("right").get("alice"),
            },
        ),
    ]
    secrets = written_in_every_way(secret.encode()) | written_in_every_way(password.encode())

    def check(number: object, printed: str | bytes) -> None:
        output = printed if isinstance(printed, bytes) else printed.encode(errors="replace")
        found = [way for way in secrets if way in output]
        assert not found, f"{number}: {found} in {output!r}"

    for number, fail in enumerate(failing):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each has its own
            fail()
        error = caught.value
        logging.getLogger("any").error("failed: %s", error, exc_info=error)
        check(number, "".join(traceback.format_exception(error)))
        while error is not None:
            check(number, f"{error!r} {error} {error.args!r}")
            if isinstance(error, SecurityError):
                check(number, pickle.dumps(error))
            error = error.__cause__ or error.__context__
    runner = CliRunner()
    for arguments in (
        ["keygen", "client"],
        ["key", "show", client[1], "binary.key_secret", "twice.key_secret", "right", "passwords", secret[1:]],
        ["key", "authorize", "list", client[1]],
        ["key", "authorize", "list", "readable.key_secret", "--name", "x"],
        ["key", "authorize", "list", "--name", "x", "--", secret[1:]],
        ["key", "revoke", "right", "alice"],
        ["key", "revoke", "client.key_secret", "client"],
    ):
        result = runner.invoke(cli, arguments)
        assert result.exit_code in (2, 3), result.output
        check(arguments[:2], result.output)
    assert len(caplog.records) >= len(failing)
    check("log", caplog.text)


@pytest.mark.parametrize(
    "secret", [KeyPair.generate().secret.decode(), "correct-horse-battery-staple"], ids=["key", "password"]
)
def test_that_search_would_find_a_secret(secret):
    ways = written_in_every_way(secret.encode())
    for leak in (
        secret.encode(),
        secret.encode().hex().encode(),
        base64.b64encode(secret.encode()),
        repr(secret).encode(),
    ):
        assert any(way in b"before " + leak + b" after" for way in ways)
