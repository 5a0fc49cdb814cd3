"""Binding and connecting: wildcards, random ports, errors, and who owns an ipc path."""

import os
import shutil
import signal
import socket as sockets

import pytest
import zmq

from dploylib import ipc_lock
from dploylib.errors import AddressInUse, EndpointError
from dploylib.transport import Context, Socket

# Wildcards and random ports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:*", "tcp://127.0.0.1:0", "tcp://*:*", "ipc://*"])
def test_a_wildcard_becomes_an_endpoint_that_can_be_connected_to(context, uri):
    pull = context.socket("pull")
    assert (pull.endpoint, pull.endpoints) == ("", [])
    pull.bind(uri)
    assert "*" not in pull.endpoint
    assert pull.endpoint.partition("://")[0] == uri.partition("://")[0]
    assert pull.endpoints == [pull.endpoint]
    assert pull.endpoint in repr(pull)
    push = context.socket("push")
    push.connect(pull.endpoint)
    push.send_text("x", timeout=10)
    assert pull.receive_text(timeout=10) == "x"


def test_an_ipc_wildcard_leaves_no_file(ipc_dir, monkeypatch, wait_for):
    monkeypatch.setenv("TMPDIR", str(ipc_dir))
    with Context.new() as context:
        socket = Socket.bind_new("pull", "ipc://*", context=context)
        assert socket.endpoint.startswith("ipc://")
        path = socket.endpoint.removeprefix("ipc://")
        assert os.path.exists(path)
    wait_for(lambda: not os.path.exists(path))


def test_one_socket_may_have_many_endpoints(ipc_dir, context):
    pull, push = context.socket("pull"), context.socket("push")
    for uri in ("tcp://127.0.0.1:*", f"ipc://{ipc_dir}/a", "inproc://many"):
        pull.bind(uri)
    for endpoint in pull.endpoints:
        push.connect(endpoint)
    assert push.endpoints == pull.endpoints
    for number in range(6):
        push.send_text(str(number), timeout=10)
    assert sorted(pull.receive_text(timeout=10) for _ in range(6)) == list("012345")


@pytest.mark.parametrize(
    ("verb", "kind", "uri", "says"),
    [
        ("bind", "rep", "tcp://192.0.2.1:5000", "cannot bind to {uri}: 192.0.2.1 is no address of this machine"),
        ("bind", "rep", "tcp://nothere:5000", "cannot bind to {uri}: no such host or network interface"),
        ("bind", "rep", "udp://127.0.0.1:5000", "cannot bind to {uri}: a rep socket does not work over udp"),
        ("bind", "rep", "foo://here", "cannot bind to {uri}: this libzmq has no foo transport"),
        ("connect", "sub", "foo://here", "cannot connect to {uri}: this libzmq has no foo transport"),
        ("connect", "sub", "tcp://a b:5000", "cannot connect to {uri}: this is not the form of such an endpoint"),
        ("connect", "sub", f"ipc:///{'x' * 200}", "cannot connect to {uri}: an ipc path has at most 107 bytes"),
        ("disconnect", "sub", "tcp://127.0.0.1:1", "cannot disconnect from {uri}: the socket is not connected to it"),
        ("unbind", "sub", "tcp://127.0.0.1:1", "cannot unbind from {uri}: the socket is not bound to it"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_named_once_and_the_reason_in_plain_words(context, verb, kind, uri, says):
    with pytest.raises(EndpointError) as caught:
        getattr(context.socket(kind), verb)(uri)
    assert str(caught.value) == says.format(uri=uri)


@pytest.mark.parametrize("kind", ["tcp", "ipc", "inproc"])
def test_an_endpoint_in_use_is_named_once(context, ipc_dir, kind):
    uri = {"tcp": "tcp://127.0.0.1:*", "ipc": f"ipc://{ipc_dir}/x", "inproc": "inproc://x"}[kind]
    endpoint = Socket.bind_new("rep", uri, context=context).endpoint
    with pytest.raises(AddressInUse) as caught:
        context.socket("rep").bind(endpoint)
    assert str(caught.value) == f"{endpoint} is in use by another socket, of this or another process"
    context.close()


def test_a_random_port_is_returned_and_is_bound(context):
    pull, push = context.socket("pull"), context.socket("push")
    port = pull.bind_to_random("tcp://127.0.0.1")
    assert pull.endpoint == f"tcp://127.0.0.1:{port}"
    push.connect(f"tcp://127.0.0.1:{port}")
    push.send_text("x", timeout=10)
    assert pull.receive_text(timeout=10) == "x"


def free_ports(count):
    """Ports that were free a moment ago, next to each other."""
    while True:
        with sockets.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        if first + count < 65536:
            return first, first + count


def bind_all(bound, *arguments):
    for socket in bound:
        socket.bind_to_random(*arguments)


def test_a_random_port_is_out_of_the_range_given_and_the_range_can_be_exhausted(context):
    first, end = free_ports(3)
    bound = [context.socket("pull") for _ in range(4)]
    with pytest.raises(AddressInUse, match=r"none of the ports tried, .* is free"):
        bind_all(bound, "tcp://127.0.0.1", first, end, 300)
    assert {int(socket.endpoint[-5:].lstrip(":")) for socket in bound if socket.endpoint} <= set(range(first, end))


@pytest.mark.parametrize("ports", [(), (20000, 65536)])
def test_a_random_port_of_all_interfaces_can_be_unbound(context, ports):
    pull = context.socket("pull")
    port = pull.bind_to_random("tcp://*", *ports)
    assert pull.endpoint == f"tcp://0.0.0.0:{port}"
    pull.unbind(f"tcp://*:{port}" if ports else None)
    assert pull.endpoints == []


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed_by_a_bind(ipc_dir, context, kind):
    path = ipc_dir / "precious"
    make = {"file": lambda: path.write_text("data"), "directory": path.mkdir, "link": lambda: path.symlink_to("data")}
    make[kind]()
    socket = context.socket("rep")
    with pytest.raises(EndpointError, match=f"cannot bind to ipc://{path}: {path} exists, and is no socket"):
        socket.bind(f"ipc://{path}")
    assert list(ipc_dir.iterdir()) == [path]
    assert path.is_symlink() or path.exists()
    shutil.rmtree(path) if kind == "directory" else path.unlink()
    socket.bind(f"ipc://{path}")
    context.close()


def test_a_range_may_have_one_end_only(context):
    assert 60000 <= context.socket("pull").bind_to_random("tcp://127.0.0.1", min_port=60000, max_tries=1000) < 65536
    assert 49152 <= context.socket("pull").bind_to_random("tcp://127.0.0.1", max_port=60000, max_tries=1000) < 60000


@pytest.mark.parametrize("ports", [(5000, 5000), (5001, 5000), (None, 5000)])
def test_a_range_without_a_port_is_refused(context, ports):
    with pytest.raises(EndpointError, match="no port from"):
        context.socket("pull").bind_to_random("tcp://127.0.0.1", *ports)


@pytest.mark.parametrize("ports", [(), (20000, 30000)])
@pytest.mark.parametrize("uri", ["ipc:///nowhere/x", "inproc://x", "127.0.0.1"])
def test_only_tcp_has_random_ports(context, uri, ports):
    socket = context.socket("pull")
    with pytest.raises(EndpointError, match="only tcp"):
        socket.bind_to_random(uri, *ports)
    assert socket.endpoints == []


@pytest.mark.parametrize("ports", [(), (20000, 30000)])
def test_a_random_port_of_an_address_that_is_not_ours_is_an_error(context, ports):
    with pytest.raises(EndpointError, match=r"tcp://192\.0\.2\.1"):
        context.socket("pull").bind_to_random("tcp://192.0.2.1", *ports)


# Errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["", "nonsense", "http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://127.0.0.1:port"])
def test_an_endpoint_that_is_none_is_named(context, uri):
    for attach in (context.socket("pull").bind, context.socket("pull").connect):
        with pytest.raises(EndpointError) as caught:
            attach(uri)
        assert uri in str(caught.value)
        assert not isinstance(caught.value, AddressInUse)


def test_an_address_in_use_is_told_apart(context):
    first = context.socket("pull")
    first.bind("tcp://127.0.0.1:*")
    second = context.socket("pull")
    with pytest.raises(AddressInUse, match=first.endpoint):
        second.bind(first.endpoint)
    assert second.endpoints == []
    first.close()


def test_an_inproc_name_in_use_is_told_apart(context):
    context.socket("pull").bind("inproc://taken")
    with pytest.raises(AddressInUse, match="inproc://taken"):
        context.socket("pull").bind("inproc://taken")


# Unbinding and disconnecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:*", "tcp://localhost:*", "inproc://again"])
def test_an_endpoint_can_be_unbound_and_bound_again(context, uri, wait_for):
    socket, other = context.socket("pull"), context.socket("pull")
    socket.bind(uri)
    endpoint = socket.endpoint
    socket.unbind()
    assert (socket.endpoint, socket.endpoints) == ("", [])

    def bound():
        try:
            other.bind(endpoint)
        except AddressInUse:
            return False  # libzmq closes the listening socket in a thread of its own
        return True

    wait_for(bound)


@pytest.mark.parametrize("uri", ["tcp://127.0.0.1:*", "tcp://localhost:*"])
def test_an_endpoint_can_be_unbound_by_what_was_given_to_bind(context, uri):
    socket = context.socket("pull")
    socket.bind(uri)
    socket.unbind(uri)
    assert socket.endpoints == []


def test_an_inproc_name_is_free_at_once_when_its_socket_was_closed_and_what_was_queued_arrives(context):
    for number in range(300):
        push = Socket.bind_new("push", "inproc://again", context=context)
        pull = Socket.connect_new("pull", "inproc://again", context=context)
        push.send_text(str(number))
        push.close()
        assert pull.receive_text(timeout=10) == str(number)
        pull.close()


def test_an_unbound_ipc_path_is_free_at_once(ipc_dir, context):
    one, two = context.socket("pull"), context.socket("pull")
    uri = f"ipc://{ipc_dir}/a"
    one.bind(uri)
    one.unbind(uri)
    assert list(ipc_dir.iterdir()) == []
    two.bind(uri)
    push = Socket.connect_new("push", uri, context=context)
    push.send_text("x", timeout=10)
    assert two.receive_text(timeout=10) == "x"
    two.close()


def test_a_disconnected_socket_sends_there_no_more(context):
    one, two = context.socket("pull"), context.socket("pull")
    push = context.socket("push")
    for pull in (one, two):
        pull.bind("tcp://127.0.0.1:*")
        push.connect(pull.endpoint)
    push.disconnect(one.endpoint)
    assert push.endpoints == [two.endpoint]
    for number in range(4):
        push.send_text(str(number), timeout=10)
    assert [two.receive_text(timeout=10) for _ in range(4)] == list("0123")
    push.disconnect()
    assert push.endpoints == []


@pytest.mark.parametrize("read_ahead", [False, True])
@pytest.mark.parametrize(("kind", "peer_kind"), [("sub", "pub"), ("router", "dealer")])
def test_a_message_that_libzmq_has_begun_to_read_is_whole_after_a_disconnect(context, kind, peer_kind, read_ahead):
    """libzmq would put the rest of the next message behind its first frame, or end the process."""
    socket = context.socket(kind, {"subscribe": ""} if kind == "sub" else {})
    one, two = (context.socket(peer_kind, {"sndhwm": 0}) for _ in range(2))
    for peer in (one, two):
        peer.bind("tcp://127.0.0.1:*")
        socket.connect(peer.endpoint)
    for _ in range(2):  # the first is read as a whole, or is begun
        while not socket.has_input():
            one.send_frames([b"a", b"b", b"c"], 10)
        if read_ahead:
            assert socket.wait_readable(10)
    socket.zmq_socket.get(zmq.EVENTS)
    socket.disconnect(one.endpoint)
    received = []
    while not received or received[-1][-3:] != [b"d", b"e", b"f"]:
        two.send_frames([b"d", b"e", b"f"], 10)
        if socket.wait_readable(0.01):
            received.append(socket.receive_frames(timeout=10))
    assert {tuple(frames[-3:]) for frames in received} <= {(b"a", b"b", b"c"), (b"d", b"e", b"f")}
    assert received[0][-3:] == [b"a", b"b", b"c"]
    assert {len(frames) for frames in received} == {3 if kind == "sub" else 4}


def test_what_was_not_bound_or_connected_cannot_be_undone(context):
    socket = context.socket("pull")
    for undo in (socket.unbind, socket.disconnect):
        with pytest.raises(EndpointError):
            undo()
        with pytest.raises(EndpointError, match=r"from tcp://127\.0\.0\.1:1\b"):
            undo("tcp://127.0.0.1:1")


def test_what_is_connected_cannot_be_unbound_nor_what_is_bound_disconnected(context):
    pull = Socket.bind_new("pull", "tcp://127.0.0.1:*", context=context)
    push = Socket.connect_new("push", pull.endpoint, context=context)
    with pytest.raises(EndpointError, match="not bound to it"):
        push.unbind()
    with pytest.raises(EndpointError, match="bound to it"):
        pull.disconnect()
    push.send_text("still connected", timeout=10)
    assert pull.receive_text(timeout=10) == "still connected"


# Who owns an ipc path ------------------------------------------------------------------------------------------


def test_a_second_bind_of_an_ipc_path_is_refused_and_the_first_keeps_it(ipc_dir, context):
    uri = f"ipc://{ipc_dir}/a"
    first = Socket.bind_new("pull", uri, context=context)
    with pytest.raises(AddressInUse, match=uri):
        context.socket("pull").bind(uri)
    with Context.new() as other, pytest.raises(AddressInUse):
        other.socket("pull").bind(uri)
    push = Socket.connect_new("push", uri, context=context)
    push.send_text("x", timeout=10)
    assert first.receive_text(timeout=10) == "x"
    first.close()


def test_an_ipc_path_is_free_at_once_when_its_socket_was_closed(ipc_dir, context):
    uri = f"ipc://{ipc_dir}/a"
    for _ in range(20):
        socket = Socket.bind_new("pull", uri, context=context)
        push = Socket.connect_new("push", uri, context=context)
        push.send_text("x", timeout=10)
        assert socket.receive_text(timeout=10) == "x"
        socket.close()
        push.close(linger=0)
        assert list(ipc_dir.iterdir()) == []


def test_an_ipc_path_that_cannot_be_bound_leaves_no_file_and_no_lock(ipc_dir, context):
    name = "x" * (130 - len(str(ipc_dir)))
    socket = context.socket("pull")
    with pytest.raises(EndpointError):
        socket.bind(f"ipc://{ipc_dir}/{name}")
    with pytest.raises(EndpointError, match="No such file or directory"):
        socket.bind(f"ipc://{ipc_dir}/no/such/directory")
    assert list(ipc_dir.iterdir()) == []
    socket.bind(f"ipc://{ipc_dir}/a")
    socket.close()


def test_an_ipc_path_bound_in_another_process_is_refused_there_and_here(ipc_dir, context, peer):
    uri = f"ipc://{ipc_dir}/a"
    other = peer("bind_ipc.py", uri)
    assert other.line() == "bound"
    with pytest.raises(AddressInUse):
        context.socket("pull").bind(uri)
    other.say("close")
    assert other.end() == 0
    ours = Socket.bind_new("pull", uri, context=context)
    assert peer("bind_ipc.py", uri).line() == "AddressInUse"
    ours.close()


def test_what_a_killed_owner_left_is_taken_over(ipc_dir, context, peer):
    uri = f"ipc://{ipc_dir}/a"
    other = peer("bind_ipc.py", uri)
    assert other.line() == "bound"
    other.signal(signal.SIGKILL)
    assert other.end() == -signal.SIGKILL
    assert sorted(path.name for path in ipc_dir.iterdir()) == ["a", "a.lock"]
    ours = Socket.bind_new("pull", uri, context=context)
    push = Socket.connect_new("push", uri, context=context)
    push.send_text("x", timeout=10)
    assert ours.receive_text(timeout=10) == "x"
    ours.close()
    assert list(ipc_dir.iterdir()) == []


def test_a_path_that_was_stolen_is_not_removed(ipc_dir, context):
    # By somebody who does not lock: plain pyzmq, whose bind replaces the file.
    path = ipc_dir / "a"
    ours = Socket.bind_new("pull", f"ipc://{path}", context=context)
    path.unlink()
    with sockets.socket(sockets.AF_UNIX) as thief:
        thief.bind(str(path))
        ours.close()
        assert [entry.name for entry in ipc_dir.iterdir()] == ["a"]
    path.unlink()


def test_a_lock_file_that_somebody_else_made_is_not_removed(ipc_dir, context):
    ours = Socket.bind_new("pull", f"ipc://{ipc_dir}/a", context=context)
    (ipc_dir / "a.lock").unlink()
    (ipc_dir / "a.lock").touch()
    ours.close()
    assert [entry.name for entry in ipc_dir.iterdir()] == ["a.lock"]
    (ipc_dir / "a.lock").unlink()


def test_closing_works_when_the_files_or_their_directory_are_gone(ipc_dir, context):
    (ipc_dir / "sub").mkdir()
    for remove_lock in (False, True):
        ours = Socket.bind_new("pull", f"ipc://{ipc_dir}/sub/a", context=context)
        (ipc_dir / "sub" / "a").unlink()
        if remove_lock:
            (ipc_dir / "sub" / "a.lock").unlink()
            (ipc_dir / "sub").rmdir()
        ours.close()
        assert remove_lock or list((ipc_dir / "sub").iterdir()) == []


def test_closing_works_when_the_directory_became_something_else(ipc_dir, context):
    (ipc_dir / "sub").mkdir()
    ours = Socket.bind_new("pull", f"ipc://{ipc_dir}/sub/a", context=context)
    (ipc_dir / "sub").rename(ipc_dir / "moved")
    (ipc_dir / "sub").touch()
    ours.close()
    assert ours.closed
    (ipc_dir / "sub").unlink()
    shutil.rmtree(ipc_dir / "moved")


def test_a_lock_that_its_owner_removed_while_it_was_opened_is_not_taken_for_one(ipc_dir, monkeypatch):
    path = f"{ipc_dir}/a"
    flock = ipc_lock.fcntl.flock
    released = []

    def release_first(file, how):
        if not released:
            released.append(True)
            os.unlink(f"{path}.lock")  # as the owner does that releases it between our open and our lock
        flock(file, how)

    monkeypatch.setattr(ipc_lock.fcntl, "flock", release_first)
    ours = ipc_lock.IpcLock(path)
    with pytest.raises(BlockingIOError):
        ipc_lock.IpcLock(path)
    ours.release()
    ours.release()


@pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="abstract names are Linux's")
def test_an_abstract_name_needs_no_lock(context):
    pull = Socket.bind_new("pull", f"ipc://@dploylib-test-{os.getpid()}", context=context)
    push = Socket.connect_new("push", pull.endpoint, context=context)
    push.send_text("x", timeout=10)
    assert pull.receive_text(timeout=10) == "x"
    assert not any(name.endswith(".lock") for name in os.listdir())
