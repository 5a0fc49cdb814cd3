"""ObservableServiceClient: what it follows, from the first broadcast to the last, and how that ends."""

import math
import textwrap

import gevent
import gevent.event
import msgspec
import pytest

from dploylib import Context, Server, bind, bind_in
from dploylib.clients import ObservableServiceClient
from dploylib.errors import ConnectTimeout, EndpointError, FollowTimeout, RemoteError, RemoteFailure, SocketClosed

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too
NOWHERE = "tcp://127.0.0.1:1"

pytestmark = pytest.mark.usefixtures("leak_check")


class Builder(Server):
    """Does what the request says: a list of steps, each a name and a text."""

    out = bind("out", "pub", options={"sndhwm": 100_000})

    @bind_in("request", "rep", concurrency=1000)
    def build(self, socket, received):
        steps = received.json
        self.take(received.id, [text for when, text in steps if when == "before the reply"])
        if any(when == "fail" for when, _ in steps):
            raise LookupError
        if any(when == "never reply" for when, _ in steps):
            gevent.sleep(math.inf)
        self.spawn(self.take, received.id, [text for when, text in steps if when == "after the reply"])
        return "begun"

    def take(self, id, texts):
        for text in texts:
            if text.startswith("line "):
                message = {"type": "output", "body": {"type": "line", "data": text[5:]}}
            else:
                kind, _, data = text.partition(" ")
                message = {"type": "status", "body": {"type": kind, "data": data}}
            self.sockets.out.send_json(message, id=id)
            gevent.sleep(0)


def steps(*texts, when="after the reply"):
    return [[when, text] for text in texts]


def data_of(received):
    return received.json["body"].get("data")


@pytest.fixture
def builder(start_service):
    return start_service(builder=Builder)


@pytest.fixture
def client(builder):
    endpoints = builder.endpoints["builder"]
    with ObservableServiceClient(endpoints["request"], endpoints["out"], timeout=PATIENCE) as client:
        yield client


# What is followed ----------------------------------------------------------------------------------------------------


def test_every_broadcast_is_seen_from_the_first_to_the_one_that_completes(client):
    following = client.follow(steps("line a", "line b", "info half", "completed all"))
    assert [data_of(one) for one in following] == ["a", "b", "half", "all"]
    assert list(following) == []
    assert following.reply.text == "begun"
    assert following.broadcasts == 4


def test_what_is_broadcast_before_the_reply_is_seen_every_time(client):
    for number in range(50):
        following = client.follow(steps(f"line {number}", "completed", when="before the reply"))
        assert [data_of(one) for one in following] == [str(number), ""]
        assert following.reply.text == "begun"


def test_many_greenlets_follow_through_one_client_and_each_sees_its_own(client, spawn):
    def follow(number):
        following = client.follow(steps(*[f"line {number}.{line}" for line in range(10)], "completed"))
        return [data_of(one) for one in following]

    following = [spawn(follow, number) for number in range(100)]
    gevent.joinall(following, timeout=PATIENCE, raise_error=True)
    assert [one.value for one in following] == [
        [*[f"{number}.{line}" for line in range(10)], ""] for number in range(100)
    ]
    assert not client._followed


def test_an_id_that_begins_with_another_one_is_another_one(builder, client):
    with client.follow(steps("line short"), id="a") as short:
        long = client.follow(steps("line long", "completed"), id="ab")
        assert [data_of(one) for one in long] == ["long", ""]
        builder.servers["builder"].take("a", ["line again"])
        assert [data_of(next(short)) for _ in range(2)] == ["short", "again"]


def test_an_id_may_be_followed_twice_at_once(client, spawn):
    first = client.follow(steps(), id="same")
    second = client.follow(steps("line a", "completed"), id="same")
    assert [[data_of(one) for one in each] for each in (second, first)] == [["a", ""]] * 2


def test_ids_are_new_ones_unless_given(client):
    followings = [client.follow(steps("completed")) for _ in range(2)]
    assert followings[0].id != followings[1].id
    assert [[one.id for one in each] for each in followings] == [[each.id] for each in followings]
    with pytest.raises(ValueError, match="empty"):
        client.follow(steps("completed"), id="")


def test_until_decides_alone_which_is_the_last_one(client):
    following = client.follow(
        steps("completed not yet", "error neither", "line end"), until=lambda received: data_of(received) == "end"
    )
    assert [data_of(one) for one in following] == ["not yet", "neither", "end"]


def test_what_is_no_message_of_dploy_is_followed_too(builder, client):
    out = builder.servers["builder"].sockets.out
    with client.follow(steps()) as following:
        for data in ([1], {"type": "status"}, {"type": "status", "body": "completed"}, {"type": "other"}):
            out.send_json(data, id=following.id)
            assert next(following).json == data
        out.send_text("text", id=following.id)
        assert next(following).text == "text"


def test_obj_is_for_broadcasts_and_reply_obj_for_replies(builder):
    class Message(msgspec.Struct):
        type: str

    endpoints = builder.endpoints["builder"]
    with ObservableServiceClient(endpoints["request"], endpoints["out"], obj=Message) as client:
        assert [one.obj for one in client.follow(steps("completed"))] == [Message("status")]


# How it ends ---------------------------------------------------------------------------------------------------------


def test_a_status_of_error_is_raised_after_what_came_before(client):
    following = client.follow(steps("line a", "error no space left", "line b"))
    assert data_of(next(following)) == "a"
    with pytest.raises(RemoteFailure, match="no space left") as failure:
        next(following)
    assert (failure.value.id, failure.value.detail) == (following.id, "no space left")
    assert list(following) == []


def test_a_problem_as_the_reply_is_raised(client):
    following = client.follow([["fail", ""]])
    with pytest.raises(RemoteError) as failure:
        next(following)
    assert failure.value.type == "urn:dploylib:handler-failed"
    with pytest.raises(RemoteError):
        _ = following.reply


def test_a_service_that_falls_silent_is_a_timeout_that_tells_what_was_seen(client):
    following = client.follow(steps("line a", "line b"), timeout=1)
    assert [data_of(next(following)) for _ in range(2)] == ["a", "b"]
    with pytest.raises(FollowTimeout, match="no sign of it for 1 s, after the reply and 2 broadcasts, the last") as it:
        next(following)
    assert isinstance(it.value, TimeoutError)
    assert not client._followed


def test_a_service_that_never_replies_is_followed_all_the_same(client):
    following = client.follow([*steps("line a", when="before the reply"), ["never reply", ""]], timeout=1)
    assert data_of(next(following)) == "a"
    with pytest.raises(FollowTimeout, match="after no reply and 1 broadcasts"):
        next(following)
    with pytest.raises(SocketClosed):
        _ = following.reply


def test_a_reply_is_waited_for_no_longer_than_the_timeout(client):
    with client.follow([["never reply", ""]], timeout=1) as following, pytest.raises(FollowTimeout):
        _ = following.reply


def test_nobody_is_asked_when_the_publisher_is_not_there(builder):
    with ObservableServiceClient(builder.endpoints["builder"]["request"], NOWHERE) as client:
        with pytest.raises(ConnectTimeout):
            client.follow(steps("completed"), timeout=0.2)
        assert not client._followed
    assert builder.servers["builder"].counts["request"].received == 0


def test_a_service_that_is_not_there_is_a_timeout_that_says_so(builder):
    with ObservableServiceClient(NOWHERE, builder.endpoints["builder"]["out"]) as client:
        following = client.follow(steps("completed"), timeout=1)
        with pytest.raises(FollowTimeout, match=f"{NOWHERE}: no connection can be made"):
            list(following)


def test_what_cannot_be_encoded_is_not_followed(client):
    with pytest.raises(TypeError):
        client.follow(object())
    assert not client._followed


def test_closing_the_client_tells_who_follows(client, spawn):
    following = client.follow(steps())
    assert following.reply.text == "begun"
    waiting = spawn(next, following)
    gevent.sleep(0)  # let it begin
    client.close()
    client.close()
    with pytest.raises(SocketClosed):
        waiting.get(timeout=PATIENCE)


def test_a_following_that_was_closed_ends_and_takes_back_its_subscription(builder, peer_socket):
    publisher = peer_socket("xpub")
    with ObservableServiceClient(builder.endpoints["builder"]["request"], publisher.endpoint) as client:
        with client.follow(steps(), id="the id") as following:
            publisher.send_json({}, id="the id")
            assert next(following).json == {}
        assert list(following) == []
        assert not client._followed
        heard = [publisher.receive_frames(timeout=PATIENCE)[0]]
        while b"\0the id" not in heard:
            heard += publisher.receive_frames(timeout=PATIENCE)
        assert heard[0] == b"\1the id"


@pytest.mark.parametrize("uris", [("nonsense", NOWHERE), (NOWHERE, "nonsense")])
def test_a_client_that_cannot_be_made_leaves_nothing_open(uris):
    with pytest.raises(EndpointError):
        ObservableServiceClient(*uris)


# Where it is used ----------------------------------------------------------------------------------------------------


def test_a_handler_that_follows_another_service_does_not_block_its_server(builder, client, start_service, spawn):
    class Front(Server):
        @bind_in("request", "rep", concurrency=20)
        def build(self, socket, received):
            return " ".join(data_of(one) for one in client.follow(steps(f"line {received.text}", "completed end")))

    endpoint = start_service(front=Front).endpoints["front"]["request"]

    def ask(number):
        with Context.new() as context:
            socket = context.socket("req")
            socket.connect(endpoint)
            socket.send_text(str(number))
            return socket.receive_text(timeout=PATIENCE)

    asking = [spawn(ask, number) for number in range(20)]
    gevent.joinall(asking, timeout=PATIENCE, raise_error=True)
    assert [one.value for one in asking] == [f"{number} end" for number in range(20)]


SCRIPT = """
    import sys, threading
    from dploylib.clients import ObservableServiceClient

    with ObservableServiceClient(sys.argv[1], sys.argv[2]) as client:
        for received in client.follow({"lines": 3}):
            print(received.json["body"]["type"], flush=True)
    assert threading.active_count() == 1
"""


@pytest.mark.parametrize("patch", ["", "import gevent.monkey; gevent.monkey.patch_all()"], ids=["plain", "patched"])
def test_a_script_that_knows_nothing_of_greenlets_follows(run_peer, tmp_path, patch):
    script = tmp_path / "script.py"
    script.write_text(patch + "\n" + textwrap.dedent(SCRIPT))
    following = run_peer(str(script), *run_peer("build.py").line().split())
    assert [following.line() for _ in range(4)] == ["line"] * 3 + ["completed"]
    assert following.end() == 0


def test_a_timeout_of_the_caller_passes_while_it_waits_for_the_reply(client):
    following = client.follow([["never reply", ""]], timeout=PATIENCE)
    with following, pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        _ = following.reply
