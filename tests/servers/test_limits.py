"""What a server does not take. Each limit is there by default, and can be set; some peers speak ZMTP by hand."""

import os
import signal
import struct
from collections.abc import Iterator

import gevent.socket
import psutil
import pytest
from gevent.event import Event

from dploylib.errors import DeclarationError
from dploylib.servers import Handler, Server, SocketDescription, bind_in, connect_in
from dploylib.transport import SOCKET_TYPES, Socket

MEGABYTE = 1024 * 1024
DEFAULTS = {
    "maxmsgsize": 16 * MEGABYTE,
    "handshake_ivl": 10_000,
    "backlog": 1024,
    "tcp_keepalive": 1,
    "tcp_keepalive_idle": 60,
    "tcp_keepalive_intvl": 10,
    "tcp_keepalive_cnt": 6,
    "rcvhwm": 1000,
    "sndhwm": 1000,
}
HEARTBEATS = {"heartbeat_ivl": 10_000, "heartbeat_timeout": 30_000, "heartbeat_ttl": 30_000}
PUBLISHERS = ("pub", "xpub")

both_ways = pytest.mark.parametrize("setup_type", ["bind", "connect"])


class Raw:
    """A peer made by hand: a TCP connection that speaks ZMTP only as far as it is told to."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        self._socket = gevent.socket.create_connection((host, int(port)))
        self._socket.settimeout(8)  # less than the 10 s of the defaults

    def shake_hands(self, minor: int = 1, kind: bytes = b"DEALER") -> None:
        """Greet as ZMTP 3.x with the NULL mechanism, and wait until the server has done so too."""
        self._socket.sendall(b"\xff" + 8 * b"\0" + b"\x7f\x03" + bytes([minor]) + b"NULL".ljust(20, b"\0") + 32 * b"\0")
        properties = b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        self._socket.sendall(self.frame(b"\x05READY" + properties, 4))
        self._read(64)
        _, length = self._read(2)
        assert self._read(length).startswith(b"\x05READY")

    @staticmethod
    def frame(body: bytes, flags: int = 0) -> bytes:
        return bytes([flags, len(body)]) + body

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def until_cut(self) -> bytes:
        """What still comes before the server closes the connection."""
        received = b""
        try:
            while some := self._socket.recv(65536):
                received += some
        except ConnectionResetError:
            pass
        return received

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            some = self._socket.recv(count - len(data))
            assert some, "the server closed the connection"
            data += some
        return data

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def raw() -> Iterator:
    """`raw(endpoint)`: a peer made by hand."""
    peers = []

    def connect(endpoint):
        peers.append(Raw(endpoint))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


class Echo(Server):
    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return received.data


def create(context, kind, setup_type, declared=None, configured=None):
    return SocketDescription("it", kind, setup_type, default_options=declared).create_socket(context, [], configured)


# Defaults ----------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("kind", SOCKET_TYPES)
def test_a_socket_of_a_server_has_limits(context, kind, setup_type):
    with create(context, kind, setup_type) as socket:
        assert {name: socket.get_option(name) for name in DEFAULTS} == DEFAULTS
        assert socket.max_frames == 256


@both_ways
@pytest.mark.parametrize("kind", SOCKET_TYPES)
def test_only_publishers_have_heartbeats(context, kind, setup_type):
    """Elsewhere they would take a peer for dead that is held back by a full queue, and what is on its way be lost."""
    with create(context, kind, setup_type) as socket:
        heartbeats = HEARTBEATS if kind in PUBLISHERS else {"heartbeat_ivl": 0}
        assert {name: socket.get_option(name) for name in heartbeats} == heartbeats


@both_ways
@pytest.mark.parametrize("name", [*DEFAULTS, *HEARTBEATS])
def test_the_declaration_overrides_a_limit_and_the_configuration_both(context, name, setup_type):
    declared, configured = (0, 1) if name == "tcp_keepalive" else (7, 8) if name[:5] != "heart" else (700, 800)
    with create(context, "pub", setup_type, {name: declared}) as socket:
        assert socket.get_option(name) == declared
    with create(context, "pub", setup_type, {name: declared}, {name: configured}) as socket:
        assert socket.get_option(name) == configured


def test_a_socket_made_by_hand_has_those_of_libzmq(context):
    with context.socket("pub") as socket:
        assert socket.get_option("maxmsgsize") == -1
        assert socket.get_option("heartbeat_ivl") == 0
        assert socket.get_option("tcp_keepalive") == -1


# Sizes -------------------------------------------------------------------------------------------------------------


def test_a_message_of_the_largest_size_is_served(serve, peer):
    body = b"x" * 16 * MEGABYTE
    assert peer("req", serve(Echo).endpoints["rep"][0]).ask(b"", b"m", body)[-1] == body


@pytest.mark.parametrize("limit", [None, 1000])
def test_who_sends_a_larger_message_is_disconnected_and_the_others_are_served(serve, peer, raw, limit):
    server = serve(Echo, rep={"options": {"maxmsgsize": limit}} if limit else {})
    endpoint = server.endpoints["rep"][0]
    client, large = peer("req", endpoint), raw(endpoint)
    assert client.ask(b"", b"m", b"before")[-1] == b"before"
    large.shake_hands()
    large.send(b"\x02" + struct.pack(">Q", (limit or 16 * MEGABYTE) + 1))  # the head of a frame, which is enough
    assert large.until_cut() == b""
    assert client.ask(b"", b"m", b"after")[-1] == b"after"
    assert server.counts["rep"].received == 2


# Peers that say nothing --------------------------------------------------------------------------------------------


def test_who_connects_and_does_not_shake_hands_is_disconnected(serve, peer, raw):
    endpoint = serve(Echo, rep={"options": {"handshake_ivl": 100}}).endpoints["rep"][0]
    assert raw(endpoint).until_cut().startswith(b"\xff")  # the server's half of the greeting
    assert peer("req", endpoint).ask(b"", b"m", b"after")[-1] == b"after"


@pytest.mark.parametrize("minor", [0, 1])
def test_with_heartbeats_a_peer_that_does_not_answer_them_is_disconnected_whatever_its_version(serve, raw, minor):
    options = {"heartbeat_ivl": 100, "heartbeat_timeout": 300}
    peer = raw(serve(Echo, rep={"options": options}).endpoints["rep"][0])
    peer.shake_hands(minor)
    assert b"\x04PING" in peer.until_cut()


def test_with_heartbeats_a_peer_that_stands_still_is_disconnected_and_comes_back(serve, process, wait_until):
    options = {"heartbeat_ivl": 100, "heartbeat_timeout": 500}
    endpoint = serve(Echo, rep={"concurrency": 2, "options": options}).endpoints["rep"][0]
    port = int(endpoint.rpartition(":")[2])

    def connections():
        found = psutil.Process(os.getpid()).net_connections("tcp4")
        return sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in found)

    peer = process("ask.py", endpoint)
    peer.say("before")
    assert peer.line() == "before"
    wait_until(lambda: connections() == 1)
    peer.signal(signal.SIGSTOP)
    wait_until(lambda: connections() == 0)
    peer.signal(signal.SIGCONT)
    peer.say("after")
    assert peer.line() == "after"


# Frames ------------------------------------------------------------------------------------------------------------


class Few(Server):
    def setup(self):
        self.pulled = Event()

    @bind_in("rep", "rep", concurrency=5, max_frames=4)
    def rep(self, socket, received):
        return received.data

    @bind_in("router", "router", max_frames=4)
    def router(self, socket, received):
        return received.data

    @bind_in("pull", "pull", max_frames=4)
    def pull(self, socket, received):
        self.pulled.set()


@pytest.mark.parametrize("name", ["rep", "router"])
@pytest.mark.parametrize(("configured", "hops"), [(None, 1), (3, 0), (10, 7)])
def test_who_sends_too_many_frames_is_told_and_the_next_good_message_is_served(serve, peer, name, configured, hops):
    """The routing id and the delimiter do not count."""
    server = serve(Few, **{name: {"max_frames": configured} if configured else {}})
    client = peer("dealer", server.endpoints[name][0])
    route = [b"hop"] * hops
    assert client.ask(*route, b"", b"i", b"m", b"good") == [*route, b"", b"i", b"application/octet-stream", b"good"]
    reply = client.ask(*route, b"hop", b"", b"i", b"m", b"bad")
    assert reply[: hops + 2] == [*route, b"hop", b""]
    assert client.problem_in(reply)["detail"].endswith(f"more than the {configured or 4} frames that are taken")
    assert client.ask(b"", b"i", b"m", b"good")[-1] == b"good"
    assert server.counts[name].malformed == 1


def test_too_many_frames_on_a_pull_are_counted(serve, peer, wait_until):
    server = serve(Few)
    client = peer("push", server.endpoints["pull"][0])
    client.send(b"hop", b"", b"i", b"m", b"bad")
    client.send(b"i", b"m", b"good")
    wait_until(server.pulled.is_set)
    assert (server.counts["pull"].malformed, server.counts["pull"].received) == (1, 2)


def test_max_frames_is_declared_like_any_other_setting():
    class Shared(Handler):
        socket_type = "rep"
        max_frames = 5

    assert Shared.bind("a").max_frames == Shared.connect("a").max_frames == 5
    for decorator in (bind_in, connect_in):
        assert decorator("a", "rep", max_frames=6)(lambda *_: None).max_frames == 6
        assert decorator("a", "rep")(lambda *_: None).max_frames == 256


@pytest.mark.parametrize("count", [2, 257, 3.5, True, None])
def test_a_max_frames_that_cannot_be_is_refused_where_it_is_declared(count):
    with pytest.raises(DeclarationError, match="max_frames is a whole number from 3 to 256, not"):
        bind_in("a", "rep", max_frames=count)


@pytest.mark.parametrize("count", [2, 257])
def test_a_socket_refuses_a_max_frames_that_cannot_be(count):
    with Socket.new("pull") as socket:
        with pytest.raises(ValueError, match=f"from 3 to 256, not {count}"):
            socket.max_frames = count
        assert socket.max_frames == 256
