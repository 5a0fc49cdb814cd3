"""Sockets that are secured by hand: what they refuse, and the files that they make."""

import contextlib
import os
import stat
import sys
from pathlib import Path

import gevent
import pytest
import zmq
from gevent.threadpool import ThreadPool

from dploylib.errors import EndpointError, InsecureEndpoint, SecurityError
from dploylib.security import Credentials, KeyPair, Security, authorize, write_key_pair
from dploylib.transport import Context

pytestmark = pytest.mark.usefixtures("leak_check")

ANYWHERE = "tcp://127.0.0.1:*"


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    """Of a server that lets in alice."""
    monkeypatch.chdir(tmp_path)
    write_key_pair("server", KeyPair.generate())
    authorize("authorized/", "alice", KeyPair.generate().public)
    return Credentials(Security(secret_key="server.key_secret", authorized_keys="authorized", server_key="server.key"))


@pytest.mark.parametrize("before", [None, Security(), Security(secret_key="server.key_secret", authorized_keys="any")])
def test_who_comes_in_at_one_endpoint_cannot_say_that_he_came_in_at_another(secured, context, before):
    """Of libzmq's words about a connection, some are the peer's own where nobody has looked who he is."""
    socket = context.socket("pull", credentials=before and Credentials(before))
    socket.bind(ANYWHERE)
    socket.credentials = secured
    with pytest.raises(SecurityError, match="is bound with other credentials"):
        socket.bind(ANYWHERE)
    with pytest.raises(SecurityError, match="is bound with other credentials"):
        socket.bind_to_random("tcp://127.0.0.1", 20000, 60000)


def test_a_socket_that_looks_who_comes_in_does_so_at_all_its_endpoints(secured, context):
    socket = context.socket("pull", credentials=secured)
    socket.bind("inproc://here")
    socket.bind(ANYWHERE)
    socket.bind(ANYWHERE)
    socket.credentials = None
    with pytest.raises(SecurityError, match="is bound with other credentials"):
        socket.bind(ANYWHERE)


def test_who_is_connected_to_cannot_say_that_he_came_in(secured, context):
    socket = context.socket("dealer", credentials=secured)
    socket.bind(ANYWHERE)
    socket.connect("inproc://here")
    with pytest.raises(SecurityError, match="is bound, and knows who comes in there"):
        socket.connect("tcp://127.0.0.1:9")
    other = context.socket("dealer", credentials=secured)
    other.connect("tcp://127.0.0.1:9")
    with pytest.raises(SecurityError, match="is connected, and of who is there nobody knows"):
        other.bind(ANYWHERE)


def test_of_who_is_in_this_process_nobody_knows_who_he_is(secured, context):
    socket = context.socket("pull", credentials=secured)
    socket.bind(ANYWHERE)
    socket.bind("inproc://here")
    with context.socket("push") as other:
        other.connect("inproc://here")
        other.send_text("hello")
        frames = socket.receive_frames(copy=False)
    assert socket.guard.peer(frames[-1]) == ("", frozenset(), "", "")


@pytest.mark.parametrize("kind", ["stream", "router"])
def test_what_speaks_no_zeromq_cannot_be_secured(secured, context, kind):
    socket = context.socket(kind, {} if kind == "stream" else {"router_raw": True}, secured)
    with pytest.raises(SecurityError, match="it speaks plain TCP"):
        socket.bind(ANYWHERE)
    with pytest.raises(SecurityError, match="it speaks plain TCP"):
        socket.connect("tcp://127.0.0.1:9")
    if kind == "router":
        socket.set_option("router_raw", False)
        socket.bind(ANYWHERE)


@pytest.mark.parametrize("uri", ["udp://127.0.0.1:9", "pgm://eth0;239.192.1.1:5555", "epgm://eth0;239.192.1.1:5555"])
def test_transports_without_a_handshake_cannot_be_secured(secured, context, uri):
    socket = context.socket("pub", credentials=secured)
    for attach in (socket.bind, socket.connect):
        with pytest.raises(InsecureEndpoint, match="has no handshake"):
            attach(uri)


# Files -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize(("written", "mode"), [(None, 0o600), ("0660", 0o660), ("0666", 0o666), ("0200", 0o200)])
@pytest.mark.parametrize("mask", [0, 0o027, 0o077, 0o777])
def test_an_ipc_file_has_its_permissions_whatever_the_umask(secured, context, written, mode, mask):
    with umask(mask):
        socket = context.socket("rep", credentials=Credentials(Security(ipc_permissions=written)))
        socket.bind("ipc://here")
        assert mode_of("here") == mode
        assert os.umask(mask) == mask


def test_the_umask_of_threads_that_bind_at_the_same_time_stays(secured):
    wrong = []
    pool = ThreadPool(4)

    def bind(number: int) -> None:
        with zmq.Context() as plain:
            blocking = Context(plain)
            for turn in range(50):
                with blocking.socket("rep") as socket:
                    socket.bind(f"ipc://{number}.{turn}")
                    wrong.extend([mode] if (mode := mode_of(f"{number}.{turn}")) != 0o600 else [])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # seconds: they take turns as often as they can
    try:
        with umask(0o002):
            gevent.joinall([pool.spawn(bind, number) for number in range(4)], raise_error=True)
            assert os.umask(0o002) == 0o002
    finally:
        sys.setswitchinterval(interval)
        pool.kill()
    assert wrong == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(secured, context):
    os.symlink("elsewhere", "here.lock")
    with pytest.raises(EndpointError, match=r"here\.lock"):
        context.socket("rep").bind("ipc://here")
    assert not os.path.lexists("elsewhere")
