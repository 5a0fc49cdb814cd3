"""Who gets through to which sockets: clients of pyzmq with and without keys and passwords, and every mechanism.

That nothing gets through is told without waiting for it: what the next client sends to the same socket comes later.
"""

from collections import Counter

import pytest

from dploylib.security import KeyPair, authorize, revoke, write_key_pair
from dploylib.servers import Server, bind, bind_in
from dploylib.services import Service
from tests.services.bare import bare_context, with_key, with_password

ANYWHERE = {"uri": "tcp://127.0.0.1:*"}
MECHANISMS = ("curve", "plain", "open")
# What the client is, and what it is to be called to: the socket of the service.
PATTERNS = {"req": "rep", "dealer": "router", "push": "pull", "sub": "pub"}
CLIENTS = {
    "no key": "open",
    "wrong key": "curve",
    "revoked key": "curve",
    "right key": "curve",
    "wrong server key": "curve",
    "right password": "plain",
    "wrong password": "plain",
}
"""The clients, and the mechanism that each of them wants."""

WELCOME = {"curve": "right key", "plain": "right password", "open": "no key"}
TURNED_AWAY = ("HANDSHAKE_FAILED_AUTH",)
LET_IN = ("HANDSHAKE_SUCCEEDED",)
MISMATCH = ("HANDSHAKE_FAILED_PROTOCOL", "HANDSHAKE_FAILED_NO_DETAIL")  # whichever end sees it first hangs up
MISMATCH_REASONS = ("it wants another mechanism", "went away during the handshake")


def outcome(client, mechanism):
    """How the handshake ends for the client, by its monitor, and why it was refused: each one of several."""
    if client == WELCOME[mechanism]:
        return LET_IN, ()
    if CLIENTS[client] != mechanism:
        return MISMATCH, MISMATCH_REASONS
    if client == "wrong server key":
        return ("HANDSHAKE_FAILED_NO_DETAIL",), ("its messages cannot be decrypted: it may have a wrong server key",)
    if client == "wrong password":
        return TURNED_AWAY, ("wrong user name or password",)
    return TURNED_AWAY, ("key not authorized",)


class AllKinds(Server):
    news = bind("pub", "pub")

    def setup(self):
        self.pulled = []

    @bind_in("rep", "rep")
    def rep(self, socket, received):
        return received

    @bind_in("router", "router")
    def router(self, socket, received):
        return received

    @bind_in("pull", "pull")
    def pull(self, socket, received):
        self.pulled.append(received.text)


class Matrix:
    """A service with every kind of socket under every mechanism, and the options of clients of all sorts."""

    def __init__(self, directory):
        server, right, revoked = (KeyPair.generate() for _ in range(3))
        write_key_pair(directory / "server", server)
        self.keys = f"{directory}/authorized/"
        authorize(self.keys, "alice", right.public)
        authorize(self.keys, "mallory", revoked.public)
        passwords = directory / "passwords"
        passwords.touch(0o600)
        passwords.write_text("alice secret\n")
        self.options = {
            "no key": {},
            "wrong key": with_key(KeyPair.generate(), server.public),
            "revoked key": with_key(revoked, server.public),
            "right key": with_key(right, server.public),
            "wrong server key": with_key(right, KeyPair.generate().public),
            "right password": with_password("alice", "secret"),
            "wrong password": with_password("alice", "secre"),
        }
        self.service = Service()
        for mechanism in MECHANISMS:
            self.service.add_server(mechanism, AllKinds)
        security = {
            "curve": {"secret_key": f"{directory}/server.key_secret", "authorized_keys": self.keys},
            "plain": {"passwords": str(passwords)},
        }
        self.service.start(
            config_dict={
                "servers": {name: dict.fromkeys(PATTERNS.values(), ANYWHERE) for name in MECHANISMS},
                "security": {"servers": security},
            }
        )

    def connect(self, new, client, mechanism, kind):
        """A socket of this client, connected to the one of the service that fits."""
        options = {"subscribe": b""} if kind == "sub" else {}
        return new(kind, self.service.endpoints[mechanism][PATTERNS[kind]], **options, **self.options[client])

    def socket(self, mechanism, kind):
        """The socket of the service that this kind of client connects to."""
        return self.service.servers[mechanism].sockets[PATTERNS[kind]]

    def refusals(self, mechanism, kind):
        """Why and from where somebody was refused, and how often; None where nobody looks."""
        guard = self.socket(mechanism, kind).guard
        return None if guard is None else Counter(guard.refusals)

    def revoke(self):
        """Take the key away from who is connected with it."""
        with bare_context() as new:
            connected = [self.connect(new, "revoked key", "curve", kind) for kind in PATTERNS]
            for one in connected:
                assert one.shake_hands() == "HANDSHAKE_SUCCEEDED"
            revoke(self.keys, "mallory")
            for one in connected:
                one.hear("DISCONNECTED")


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    matrix = Matrix(tmp_path_factory.mktemp("keys"))
    with matrix.service:
        matrix.revoke()
        yield matrix


def send(client):
    """Let a client send what only it sends. A SUB has sent its subscription."""
    if client.kind != "sub":
        client.send("it is me")


def gets_through(matrix, mechanism, client, wait_until):
    """Wait until what the client has sent, or would hear, has come through."""
    if client.kind == "push":
        pulled = matrix.service.servers[mechanism].pulled
        wait_until(lambda: "it is me" in pulled)
        pulled.clear()
    elif client.kind == "sub":
        wait_until(lambda: matrix.socket(mechanism, "sub").send_text("news") or client.has_input())
        assert client.receive() == "news"
    else:
        assert client.receive() == "it is me"


def is_served_alone(matrix, mechanism, client, welcome, wait_until):
    """That one who is welcome is served, and the client before it was not, nor heard anything."""
    if client.kind == "push":
        pulled = matrix.service.servers[mechanism].pulled
        welcome.send("welcome")
        wait_until(lambda: pulled)
        assert pulled == ["welcome"]
        pulled.clear()
    else:
        send(welcome)
        gets_through(matrix, mechanism, welcome, wait_until)
    assert not client.has_input()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("who", CLIENTS)
def test_who_gets_through(matrix, who, mechanism, pattern, wait_until):
    events, reasons = outcome(who, mechanism)
    before = matrix.refusals(mechanism, pattern)
    handled = matrix.service.servers[mechanism].counts.get(PATTERNS[pattern])
    received = 0 if handled is None else handled.received
    with bare_context() as new:
        client = matrix.connect(new, who, mechanism, pattern)
        send(client)  # which waits for the connection
        assert client.shake_hands() in events
        if events == LET_IN:
            gets_through(matrix, mechanism, client, wait_until)
        else:
            welcome = matrix.connect(new, WELCOME[mechanism], mechanism, pattern)
            is_served_alone(matrix, mechanism, client, welcome, wait_until)
        if handled is not None:
            assert handled.received == received + 1
        if before is None:
            assert mechanism == "open"
            return
        wait_until(lambda: (matrix.refusals(mechanism, pattern) - before).total() >= (events != LET_IN))
        refused = matrix.refusals(mechanism, pattern) - before
        assert refused.total() == (events != LET_IN)
        assert {reason for reason, _ in refused} <= set(reasons)
        # Whom libzmq itself turns away may be gone before anybody can see where from he came.
        assert {address for _, address in refused} <= {"127.0.0.1", *([] if events == TURNED_AWAY else [""])}
