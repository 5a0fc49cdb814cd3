"""How a configuration says what its sockets are secured by, and what is wrong with one, found before the start."""

import os
import socket
from pathlib import Path

import pytest

from dploylib.config import YAMLConfigMapper
from dploylib.errors import ConfigurationError, DeclarationError
from dploylib.security import KeyPair, Security, authorize, write_key_pair
from dploylib.servers import Handler, Server, allow, bind, bind_in, connect, connect_in
from dploylib.services import Service


class Shop(Server):
    news = bind("news", "pub")
    bank = connect("bank", "req", optional=True)

    @bind_in("orders", "rep")
    def take(self, socket, received):
        return received.text


class Guarded(Server):
    @bind_in("orders", "rep")
    @allow("cooks", "waiters")
    def take(self, socket, received):
        return received.text


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, KeyPair]:
    """Keys of a server and a client, who is authorized, in files of the current directory."""
    monkeypatch.chdir(tmp_path)
    pairs = {name: KeyPair.generate() for name in ("server", "alice")}
    for name, pair in pairs.items():
        write_key_pair(name, pair)
    authorize("authorized/", "alice", pairs["alice"].public, ["cooks"])
    return pairs


def problems(text: str, server: type[Server] = Shop) -> list[str]:
    service = Service()
    service.add_server("shop", server)
    try:
        service.load(config_string=text)
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return []


HERE = """
servers:
  shop:
    news: {uri: "ipc://news"}
    orders: {uri: "tcp://127.0.0.1:*"}
"""


# What is said where ----------------------------------------------------------------------------------------------


def test_what_a_socket_does_not_say_is_as_for_its_server_and_then_the_service():
    settings = YAMLConfigMapper().process_string("""
security:
  secret_key: service.key_secret
  authorized_keys: everybody
  insecure: true
  servers:
    shop: {authorized_keys: customers, groups: [regulars]}
servers:
  shop:
    orders: {uri: "tcp://127.0.0.1:*", security: {groups: [vips], insecure: false}}
    news: {uri: "tcp://127.0.0.1:*"}
  bank:
    orders: {uri: "tcp://127.0.0.1:*"}
""")
    common = {"secret_key": "service.key_secret"}
    assert settings.security("bank", "orders") == Security(authorized_keys="everybody", insecure=True, **common)
    of_shop = common | {"authorized_keys": "customers"}
    assert settings.security("shop", "news") == Security(groups=["regulars"], insecure=True, **of_shop)
    assert settings.security("shop", "orders") == Security(groups=["vips"], insecure=False, **of_shop)
    assert settings.server_settings("shop").security("orders").groups == ["vips"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{mechanism: curv}", "security.mechanism: found 'curv' (string), expected curve, plain or none"),
        ("{secret-key: x}", "security.secret-key: unknown key 'secret-key'; did you mean 'secret_key'?"),
        (
            "{allow: [10.0.0.0/8, 10.0.0.256]}",
            "security.allow.1: found '10.0.0.256' (string), expected an IP address or",
        ),
        ("{allow: [10.0.0.1/8]}", "security.allow.0: found '10.0.0.1/8' (string), expected an IP address or network"),
        ("{deny: [me]}", "security.deny.0: found 'me' (string), expected an IP address or network"),
        ("{max_connections_per_address: 0}", "found 0 (integer), expected integer >= 1"),
        ("{ipc_permissions: 0660}", "found 432 (integer), expected the octal permissions of a file in quotes, such as"),
        ("{ipc_permissions: '0999'}", "expected the octal permissions of a file in quotes, such as '0660'"),
        ("{servers: {ship: {insecure: true}}}", "the service has no server 'ship'; did you mean 'shop'?"),
        ("{password: [hunter2]}", "security.password: found list, expected string"),
        ("{server_key: []}", "security.server_key: found a list of 0, expected at least 1"),
    ],
)
def test_a_wrong_setting_is_named(section, message):
    found = problems(f"security: {section}\n{HERE}")
    assert len(found) == 1
    assert message in found[0]
    assert "hunter2" not in found[0]


# What is missing, or cannot be read ------------------------------------------------------------------------------


def test_what_is_wrong_for_all_sockets_is_said_once_where_it_stands(keys):
    os.chmod("server.key_secret", 0o644)
    [found] = problems(f"security:\n  authorized_keys: authorized\n  secret_key: server.key_secret\n{HERE}")
    assert found == (
        "string:3: security.secret_key: others may read the secret key in server.key_secret (its permissions are "
        "0644), so it is not used; mend it: chmod 600 server.key_secret"
    )


def test_each_list_that_cannot_be_used_is_named_with_its_lines(keys):
    Path("list").write_text(f"alice {keys['alice'].public} cooks\nbob\ncarol nokey\n")
    [found] = problems(f"security: {{secret_key: server.key_secret, authorized_keys: list}}\n{HERE}")
    assert "list:2: expected NAME KEY" in found
    assert "list:3: what stands behind carol is no key" in found


@pytest.mark.parametrize(
    ("section", "path", "message"),
    [
        ("authorized_keys: any", "servers.shop.news", "a socket that is bound with CURVE needs secret_key"),
        ("secret_key: server.key_secret", "servers.shop.news", "needs authorized_keys: the directory or file"),
        (
            "{secret_key: no/where, authorized_keys: any}",
            "security.secret_key",
            "cannot read the secret key in no/where",
        ),
        ("{secret_key: server.key_secret, authorized_keys: nowhere}", "security.authorized_keys", "nowhere"),
        ("{mechanism: plain}", "servers.shop.news", "needs passwords: the file with the names and passwords"),
        ("{secret_key: server.key_secret, passwords: x}", "servers.shop.news", "say which mechanism it is to be"),
        ("{groups: [cooks]}", "security.groups", "groups are of clients that authenticate themselves"),
        (
            "{secret_key: server.key_secret, authorized_keys: any, groups: [a]}",
            "security.groups",
            "authorized_keys is any",
        ),
    ],
)
def test_what_is_missing_is_said(keys, section, path, message):
    found = problems(f"security: {section if section.startswith('{') else f'{{{section}}}'}\n{HERE}")
    assert any(f": {path}: " in one and message in one for one in found), found


def test_a_connecting_socket_needs_the_key_of_the_server(keys):
    text = HERE + '    bank: {uri: "tcp://127.0.0.1:5000"}\n'
    section = "security: {secret_key: server.key_secret, authorized_keys: authorized"
    [found] = problems(f"{section}}}\n{text}")
    assert "servers.shop.bank: a socket that connects with CURVE needs server_key" in found
    assert problems(f"{section}, server_key: alice.key}}\n{text}") == []
    assert problems(f"{section}, servers: {{shop: {{server_key: [alice.key, server.key]}}}}}}\n{text}") == []
    [found] = problems(f"{section}, server_key: nowhere.key}}\n{text}")
    assert "security.server_key: cannot read the public key in nowhere.key: No such file or directory" in found


def test_all_files_that_cannot_be_used_are_told_at_once(keys):
    text = HERE + '    bank: {uri: "tcp://127.0.0.1:5000"}\n'
    section = "{secret_key: server.key, authorized_keys: no/where, server_key: [alice.key, nowhere.key]}"
    found = "\n".join(problems(f"security: {section}\n{text}"))
    assert "security.secret_key: server.key has the public key alone" in found
    assert "security.authorized_keys: cannot read the authorized keys in no/where" in found
    assert "security.server_key: cannot read the public key in nowhere.key" in found


def test_the_list_of_those_who_may_connect_is_not_read_where_nobody_does(keys):
    text = "servers: {shop: {bank: {uri: 'tcp://127.0.0.1:5000'}}}\n"

    class Customer(Server):
        bank = connect("bank", "req")

    section = "secret_key: server.key_secret, server_key: alice.key, authorized_keys: no/where"
    assert problems(f"security: {{{section}}}\n{text}", Customer) == []


def test_settings_that_would_do_nothing_for_a_socket_are_not_said_of_it(keys):
    text = HERE.replace('127.0.0.1:*"', '127.0.0.1:*", security: {server_key: alice.key}')
    text += '    bank: {uri: "tcp://127.0.0.1:5000", security: {groups: [cooks]}}\n'
    found = problems(f"security: {{{SECURE}}}\n{text}")
    assert [one.partition(": ")[2] for one in found] == [
        "servers.shop.orders.security.server_key: server_key is for sockets that connect, and shop.orders is bound",
        "servers.shop.bank.security.groups: groups is for sockets that are bound, and shop.bank connects",
    ]


def test_inproc_endpoints_need_nothing(keys):
    text = "servers: {shop: {news: {uri: 'inproc://n'}, orders: {uri: 'inproc://o'}, bank: {uri: 'inproc://b'}}}"
    assert problems("security: {secret_key: server.key_secret, authorized_keys: any}\n" + text) == []


# Safe by default -------------------------------------------------------------------------------------------------

OUTSIDE = ["tcp://*:*", "tcp://0.0.0.0:*"]
SECURE = "secret_key: server.key_secret, authorized_keys: authorized, server_key: alice.key"


@pytest.mark.parametrize("uri", OUTSIDE)
def test_what_other_machines_can_reach_has_to_be_encrypted(keys, uri):
    text = f"servers: {{shop: {{news: {{uri: 'ipc://n'}}, orders: {{uri: '{uri}'}}}}}}\n"
    [found] = problems(text)
    assert found.startswith(f"string:1: servers.shop.orders.uri: {uri}: nothing is encrypted")
    assert problems(f"security: {{{SECURE}}}\n{text}") == []
    assert problems(f"security: {{insecure: true}}\n{text}") == []
    assert problems(f"security: {{servers: {{shop: {{insecure: true}}}}}}\n{text}") == []


def test_what_leads_to_other_machines_has_to_be_encrypted(keys):
    text = "servers: {shop: {news: {uri: 'ipc://n'}, orders: {uri: 'ipc://o'}, bank: {uri: 'tcp://192.0.2.1:5000'}}}\n"
    [found] = problems(text)
    assert "servers.shop.bank.uri: tcp://192.0.2.1:5000: nothing is encrypted" in found
    assert problems(f"security: {{{SECURE}}}\n{text}") == []


def test_a_password_does_not_leave_the_machine_in_clear(keys):
    Path("passwords").touch(0o600)
    Path("passwords").write_text("alice secret\n")
    text = "servers: {shop: {news: {uri: 'ipc://n'}, orders: {uri: 'tcp://*:*'}}}\n"
    [found] = problems(f"security: {{passwords: passwords}}\n{text}")
    assert "servers.shop.orders.uri: tcp://*:*: with PLAIN the password goes over the network" in found
    assert problems(f"security: {{passwords: passwords, insecure: true}}\n{text}") == []
    assert problems(f"security: {{passwords: passwords}}\n{text.replace('*:*', 'localhost:*')}") == []


def test_a_broken_configuration_is_not_said_to_be_insecure_as_well(keys):
    found = problems(f"security: {{{SECURE}, mechanism: 5}}\nservers: {{shop: {{orders: {{uri: 'tcp://*:*'}}}}}}\n")
    assert [one.partition(": found")[0] for one in found if "mechanism" in one] == ["string:1: security.mechanism"]
    assert not any("nothing is encrypted" in one for one in found)


def test_of_a_section_that_is_wrong_nobody_says_what_it_lacks(keys):
    for section in ("{allow: 127.0.0.1}", "{authorised_keys: authorized}", "[curve]"):
        [found] = problems(f"security: {section}\nservers: {{shop: {{orders: {{uri: 'tcp://*:*'}}}}}}\n", Guarded)
        assert "string:1: security" in found


def test_all_that_is_missing_is_told_at_once(keys):
    found = problems("security: {mechanism: curve}\nservers: {shop: {orders: {uri: 'tcp://127.0.0.1:*'}}}\n", Guarded)
    assert ["secret_key" in found[0], "authorized_keys" in found[1], len(found)] == [True, True, 2]


class Raw(Server):
    stream = bind("stream", "stream", optional=True)
    router = bind("router", "router", options={"ROUTER_RAW": 1}, optional=True)
    out = connect("out", "stream", optional=True)


@pytest.mark.parametrize(
    "security", [SECURE, "allow: [127.0.0.1]", "deny: [192.0.2.0/24]", SECURE + ", insecure: true"]
)
@pytest.mark.parametrize("socket", ["stream: {uri: 'tcp://*:*'}", "router: {uri: 'ipc://r'}"])
def test_what_speaks_no_zeromq_cannot_be_secured(keys, security, socket):
    text = f"security: {{{security}}}\nservers: {{shop: {{{socket}}}}}\n"
    assert any("it speaks plain TCP, without the handshake of ZeroMQ" in one for one in problems(text, Raw))
    text = f"servers: {{shop: {{{socket}}}}}\n".replace("*:*", "127.0.0.1:*")
    assert problems(text, Raw) == []


def test_what_speaks_no_zeromq_does_not_leave_the_machine_by_being_secured(keys):
    text = "servers: {shop: {out: {uri: 'tcp://192.0.2.1:1'}}}\n"
    [found] = problems(f"security: {{{SECURE}}}\n{text}", Raw)
    assert "servers.shop.out.uri: tcp://192.0.2.1:1: it speaks plain TCP" in found
    [found] = problems(text, Raw)
    assert "nothing is encrypted" in found


@pytest.mark.parametrize("option", ["socks_proxy: '192.0.2.1:1080'", "SOCKS_PROXY: 'localhost:1080'"])
def test_a_proxy_leads_to_other_machines(keys, option):
    text = f"""
servers:
  shop:
    news: {{uri: "ipc://n"}}
    orders: {{uri: "ipc://o"}}
    bank: {{uri: "tcp://127.0.0.1:5000", options: {{{option}}}, security: {{SECURITY}}}}
"""
    [found] = problems(text.replace("SECURITY", ""))
    assert "servers.shop.bank.uri: tcp://127.0.0.1:5000: nothing is encrypted" in found
    [found] = problems(text.replace("SECURITY", "username: alice, password: secret"))
    assert "with PLAIN the password goes over the network" in found
    assert problems(text.replace("SECURITY", "server_key: alice.key")) == []


def test_a_descriptor_may_be_of_another_endpoint(keys):
    with socket.create_server(("0.0.0.0", 0)) as listener:
        bound = f"{{uri: 'tcp://127.0.0.1:*', options: {{use_fd: {os.dup(listener.fileno())}}}}}"  # libzmq closes it
        [found] = problems(f"servers: {{shop: {{news: {{uri: 'ipc://n'}}, orders: {bound}}}}}\n")
    assert "servers.shop.orders.uri: tcp://127.0.0.1:*: nothing is encrypted" in found


def test_keys_of_a_socket_count_where_its_service_has_no_security():
    outer = Security(mechanism="none", insecure=True)
    assert Security(secret_key="a.key_secret", authorized_keys="a/").over(outer).mechanism is None
    assert Security(password="secret").over(outer).mechanism is None
    assert Security(allow=["127.0.0.1"]).over(outer).mechanism == "none"
    assert Security(mechanism="none").over(Security(secret_key="a.key_secret")).mechanism == "none"
    assert Security(server_key="a.key").over(Security(mechanism="plain")).mechanism == "plain"


# Handlers for some ------------------------------------------------------------------------------------------------


def test_handlers_for_groups_need_to_know_who_is_there(keys):
    text = "servers: {shop: {orders: {uri: 'tcp://127.0.0.1:*'}}}\n"
    for section, what in {
        "{}": "mechanism is none",
        "{secret_key: server.key_secret, authorized_keys: any}": "authorized_keys is any",
        "{allow: [127.0.0.1]}": "mechanism is none",
    }.items():
        [found] = problems(f"security: {section}\n{text}", Guarded)
        assert "servers.shop.orders: the handler is for cooks, waiters, and nobody is known by name here" in found
        assert found.endswith(f"but {what}")
    assert problems(f"security: {{{SECURE}}}\n{text}", Guarded) == []


def test_groups_are_declared_on_handlers_in_any_way():
    class Shout(Handler):
        socket_type = "rep"

        def __call__(self, server, socket, received):
            return received.text.upper()

    class Kitchen(Server):
        @allow("cooks")
        @bind_in("above", "rep")
        def above(self, socket, received): ...

        @bind_in("below", "rep")
        @allow("cooks")
        def below(self, socket, received): ...

        shout = allow("cooks")(Shout.bind("shout"))
        free = Shout.bind("free")

    class Other(Kitchen):
        def above(self, socket, received): ...

        @allow("guests")
        def below(self, socket, received): ...

    class Again(Kitchen):
        @bind_in("above", "rep", concurrency=5)
        def above(self, socket, received): ...

        @bind_in("below", "rep")
        @allow("guests")
        def below(self, socket, received): ...

        shout = bind("shout", "rep")
        free = allow("guests")(Shout.bind("free"))

    groups = {name: one.groups for name, one in Kitchen.description.sockets.items()}
    cooks = frozenset({"cooks"})
    assert groups == {"above": cooks, "below": cooks, "shout": cooks, "free": None}
    assert Other.description.sockets["above"].groups == cooks  # what overrides a handler is for the same ones
    assert Other.description.sockets["below"].groups == {"guests"}
    groups = {name: one.groups for name, one in Again.description.sockets.items()}  # and so is what declares it anew
    assert groups == {"above": cooks, "below": {"guests"}, "shout": None, "free": {"guests"}}


@pytest.mark.parametrize(
    "declare",
    [
        lambda: allow(),
        lambda: allow(""),
        lambda: allow(lambda: None),
        lambda: allow("cooks")(5),
        lambda: allow("cooks")(bind("out", "pub")),
        lambda: connect_in("in", "sub")(allow("cooks")(lambda *_: None)),
        lambda: allow("cooks")(connect_in("in", "sub")(lambda *_: None)),
    ],
)
def test_groups_that_cannot_be_are_refused_where_they_are_declared(declare):
    with pytest.raises(DeclarationError):
        declare()
