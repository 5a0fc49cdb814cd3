"""`Security`: what may be written, and what is shown of it."""

import copy
import json
import logging
import pickle
import pprint
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import SecurityError
from dploylib.security import Security, ServiceSecurity
from dploylib.security.settings import network_of

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")


def error_of(**settings: object) -> SecurityError:
    with pytest.raises(SecurityError) as caught:
        Security(**settings)
    assert caught.value.setting in settings
    return caught.value


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("mechanism", "CURVE", "expected curve, plain or none"),
        ("mechanism", "", "expected curve, plain or none"),
        ("mechanism", 1, "expected `str | null`, got `int`"),
        ("secret_key", b"x", "expected `str | null`, got `bytes`"),
        ("server_key", [], "expected `array` of length >= 1"),
        ("server_key", [1], "expected `str`, got `int` - at `$[0]`"),
        ("groups", "admins", "expected `array | null`, got `str`"),
        ("allow", "10.0.0.1", "expected `array | null`, got `str`"),
        (
            "allow",
            ["10.0.0.1/8"],
            "expected an IP address or network, such as 10.0.0.0/8 (10.0.0.1/8 has host bits set)",
        ),
        ("allow", ["example.org"], "expected an IP address or network, such as 10.0.0.0/8 ('example.org' does not"),
        ("allow", ["0" * 40], "expected an IP address or network"),
        ("deny", ["10.0.0.0/8", "0" * 39], "expected an IP address or network"),
        (
            "deny",
            ["fe80::1%eth0"],
            "expected an IP address or network, such as 10.0.0.0/8 (a network is the same on every",
        ),
        ("insecure", "yes", "expected `bool | null`, got `str`"),
        ("max_connections_per_address", 0, "expected `int` >= 1"),
        ("max_connections_per_address", 1_000_001, "expected `int` <= 1000000"),
        ("ipc_permissions", 660, "expected `str | null`, got `int`"),
        ("ipc_permissions", "rw-", "expected the octal permissions of a file in quotes, such as '0660'"),
        ("ipc_permissions", "0o660", "expected the octal permissions"),
        ("ipc_permissions", "1777", "expected the octal permissions"),
        ("ipc_permissions", "660\n", "expected the octal permissions"),
        ("username", "", "expected 1 to 255 bytes of text in UTF-8"),
        ("username", "ä" * 128, "expected 1 to 255 bytes of text in UTF-8"),
        ("password", "", "expected 1 to 255 bytes of text in UTF-8"),
        ("password", "hunter2" * 50, "expected 1 to 255 bytes of text in UTF-8"),
        ("password", "hunter2\udcff", "expected 1 to 255 bytes of text in UTF-8"),
        ("password", b"hunter2", "expected `str | null`, got `bytes`"),
    ],
)
def test_what_a_setting_cannot_be_is_told_when_it_is_made(setting, value, complaint):
    error = error_of(**{setting: value})
    assert str(error).startswith(f"{setting}: {complaint}")
    assert "hunter2" not in repr(error)


def test_a_mechanism_that_does_not_exist_never_leaves_a_socket_open():
    # libzmq would take it for none.
    assert error_of(mechanism="cruve", secret_key="x").setting == "mechanism"


def test_paths_are_taken_as_such():
    security = Security(
        secret_key=Path("a"), authorized_keys=Path("b"), passwords=Path("c"), server_key=(Path("d"), "0" * 40)
    )
    assert security == Security(secret_key="a", authorized_keys="b", passwords="c", server_key=["d", "0" * 40])
    assert Security(server_key=Path("d")).server_key == "d"


def test_settings_that_say_nothing_are_as_those_around_them():
    outer = Security(secret_key="a", allow=["10.0.0.0/8"], groups=["x"], insecure=True)
    inner = Security(groups=[], insecure=False, password="p")
    assert inner.over(outer) == Security(secret_key="a", allow=["10.0.0.0/8"], groups=[], insecure=False, password="p")
    assert Security().over(outer) == outer
    assert type(Security().over(ServiceSecurity(servers={"a": inner}, groups=["x"]))) is Security


def test_settings_of_a_service_are_converted_from_what_is_written():
    written = {"secret_key": "a", "servers": {"echo": {"passwords": "b", "password": "hunter2"}}}
    security = msgspec.convert(written, ServiceSecurity)
    assert security == ServiceSecurity(secret_key="a", servers={"echo": Security(passwords="b", password="hunter2")})
    with pytest.raises(msgspec.ValidationError, match="mechanism: expected curve, plain or none"):
        msgspec.convert({"mechanism": "tls"}, Security)


@given(st.ip_addresses(v=4), st.integers(0, 32))
def test_a_network_of_mapped_addresses_is_one_of_ipv4(address, length):
    network = network_of(f"{address}/32").supernet(new_prefix=length)
    assert network_of(f"::ffff:{network.network_address}/{length + 96}") == network


@pytest.mark.parametrize("text", ["::/0", "2001:db8::/32", "::1", "::ffff:0:0/95"])
def test_other_networks_of_ipv6_stay_so(text):
    try:
        assert network_of(text).version == 6
    except ValueError:
        assert text == "::ffff:0:0/95"  # has host bits set


@given(st.text())
def test_any_text_is_a_setting_or_a_security_error(text):
    for setting in ("mechanism", "username", "password", "ipc_permissions"):
        try:
            Security(**{setting: text})
        except SecurityError as error:
            assert error.setting == setting  # noqa: PT017 - it need not be raised
    for setting in ("allow", "deny"):
        try:
            Security(**{setting: [text]})
        except SecurityError as error:
            assert error.setting == setting  # noqa: PT017 - it need not be raised


# The password --------------------------------------------------------------------------------------------------

PASSWORD = "hunter2"


@pytest.fixture
def security() -> ServiceSecurity:
    """Settings with passwords wherever there can be any."""
    one = Security(username="alice", password=PASSWORD)
    return ServiceSecurity(username="alice", password=PASSWORD, servers={"echo": one})


def test_a_password_is_what_it_is(security):
    assert security.password == PASSWORD
    assert security.password.encode() == PASSWORD.encode()
    assert Security(password=PASSWORD) == Security(password=PASSWORD) != Security(password="another")
    assert hash(security.password) == hash(PASSWORD)


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{0.password} {0.servers}".format,
        "{!r:>100}".format,
        lambda one: f"{one} {one!r} {one.password} {one.password!r} {one.password:>20} {one.servers}",
        lambda one: "%s %r %s" % (one, one, one.password),  # noqa: UP031
        lambda one: str([one, {"a": one.password}, (one.password,)]),
        lambda one: str(msgspec.structs.asdict(one)),
        lambda one: str(msgspec.structs.astuple(one)),
        pprint.pformat,
        lambda one: str(list(one.__rich_repr__())),
        lambda one: str(copy.deepcopy(one)),
        lambda one: str(copy.replace(one) if hasattr(copy, "replace") else msgspec.structs.replace(one)),
        lambda one: str(pickle.loads(pickle.dumps(one))),
        lambda one: str(one.servers["echo"].over(Security(password=PASSWORD))),
        lambda one: str(ValueError(one, one.password)),
        lambda one: json.dumps({"security": one}, default=str),
    ],
)
def test_a_password_is_not_shown_however_it_is_printed(security, show):
    shown = show(security)
    assert PASSWORD not in shown
    assert "***" in shown or "ServiceSecurity" not in shown


@pytest.mark.parametrize(
    "encode", [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, msgspec.yaml.encode, msgspec.to_builtins]
)
def test_settings_with_a_password_become_no_json(security, encode):
    with pytest.raises(TypeError) as caught:
        encode(security)
    assert PASSWORD not in str(caught.value)


def test_a_password_is_not_logged(security, caplog):
    logging.getLogger("any").warning("%s %r %s", security, security, security.password)
    assert caplog.text
    assert PASSWORD not in caplog.text


def test_a_process_gets_its_password_by_pickle(security):
    # A server in a process of its own is to connect with it.
    assert pickle.loads(pickle.dumps(security)) == security


def test_only_what_is_said_is_shown(security):
    assert repr(Security()) == "Security()"
    assert repr(Security(groups=[], insecure=False)) == "Security(groups=[], insecure=False)"
    assert repr(security) == (
        "ServiceSecurity(username='alice', password=***, servers={'echo': Security(username='alice', password=***)})"
    )


@pytest.mark.parametrize("setting", ["secret_key", "passwords", "authorized_keys"])
def test_a_key_where_a_path_belongs_is_not_shown(setting):
    key = "A" + "0" * 39
    assert repr(Security(**{setting: key})) == f"Security({setting}=***)"
    assert repr(Security(**{setting: "keys/a.key_secret"})) == f"Security({setting}='keys/a.key_secret')"
