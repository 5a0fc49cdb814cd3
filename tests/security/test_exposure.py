"""Which endpoints lead out of the machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.security import leaves_machine

pytestmark = pytest.mark.once("nothing here waits, or touches a socket or a greenlet")


@pytest.mark.parametrize(
    "uri",
    [
        "inproc://x",
        "ipc:///run/x",
        "ipc://@abstract",
        "vmci://1:2",
        "wss://example.org:443/x",
        "tcp://127.0.0.1:1",
        "tcp://127.9.9.9:1",
        "tcp://127.0.0.1:*",
        "tcp://[::1]:1",
        "tcp://[::1%lo]:1",
        "tcp://[::ffff:127.0.0.1]:1",
        "tcp://localhost:1",
        "tcp://LOCALHOST:1",
        "tcp://10.0.0.1:0;127.0.0.1:5",
        "tcp://eth0;127.0.0.1:5",
        "ws://127.0.0.1:80/x",
        "ws://[::1]:80/x;10.0.0.1:5",
    ],
)
def test_what_stays_on_the_machine(uri):
    assert not leaves_machine(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "tcp://*:1",
        "tcp://0.0.0.0:1",
        "tcp://[::]:1",
        "tcp://[::ffff:10.0.0.1]:1",
        "tcp://10.0.0.1:1",
        "tcp://128.0.0.1:1",
        "tcp://eth0:1",
        "tcp://lo:1",  # to connect to, a name; and to bind to, an interface with whatever addresses
        "tcp://eth0;10.0.0.1:5",
        "tcp://127.0.0.1:0;10.0.0.1:5",
        "tcp://lo;10.0.0.1:5",
        "tcp://[::1]:0;[2001:db8::1]:5",
        "tcp://[fe80::1%lo]:1",
        "tcp://[fe80::1%eth0]:1",
        "tcp://example.org:1",
        "tcp://localhost.example.org:1",
        "tcp://127.0.0.1.example.org:1",
        "tcp://2130706433:1",  # what some resolvers take for 127.0.0.1
        "tcp://127.1:1",
        "ws://10.0.0.1:80/127.0.0.1:1",
        "ws://10.0.0.1:80/;127.0.0.1:1",
        "udp://127.0.0.1:1",
        "pgm://eth0;239.192.1.1:5555",
        "epgm://lo;239.192.1.1:5555",
        "norm://127.0.0.1:1",
        "tipc://{5560,0,0}",
        "TCP://127.0.0.1:1",
        "tcp://",
        "tcp://127.0.0.1",
        "127.0.0.1:1",
        "",
    ],
)
def test_what_leaves_the_machine_or_may(uri):
    assert leaves_machine(uri)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_of_addresses_only_those_of_the_loop_stay(address, port):
    host = f"[{address}]" if address.version == 6 else str(address)
    stays = (getattr(address, "ipv4_mapped", None) or address).is_loopback
    assert leaves_machine(f"tcp://{host}:{port}") is not stays
    assert leaves_machine(f"tcp://{host}:{port};10.0.0.1:{port}")
    assert not leaves_machine(f"tcp://{host}:{port};127.0.0.1:{port}")


@given(st.text())
def test_any_text_has_an_answer(text):
    assert leaves_machine(text) in (True, False)
    assert leaves_machine(f"tcp://{text}") in (True, False)
