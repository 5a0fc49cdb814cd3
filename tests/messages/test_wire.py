"""Messages over real sockets: to and from peers that know nothing of us, and as clients follow them."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq
import zmq.green

from dploylib import Server, Service, bind, bind_in
from dploylib.clients import ObservableServiceClient
from dploylib.errors import InvalidData, RemoteFailure
from dploylib.messages import (
    AppRelease,
    BroadcastMessage,
    BroadcastOutputData,
    BroadcastStatusData,
    BuildRequest,
    ZoneStopDeploy,
)
from dploylib.transport import Context, Socket
from tests.messages.samples import APP_RELEASE, BROADCAST_ID, COMMIT

PATIENCE = 20.0  # seconds; an upper bound for what comes at once, on a loaded machine too


class BuildQueue(Server):
    out = bind("out", "pub")

    @bind_in("request", "rep", obj=BuildRequest)
    def build(self, socket, received):
        job = received.obj
        self.tell(job, BroadcastOutputData("line", f"building {job.commit}"))
        if job.update_message == "broken":
            self.tell(job, BroadcastStatusData("error", "it does not compile"))
        self.tell(job, BroadcastStatusData("completed"))
        return AppRelease(job.release_version + 1, job.app, job.commit, {}, {"web": "run"})

    def tell(self, job, body):
        kind = "output" if isinstance(body, BroadcastOutputData) else "status"
        self.sockets.out.send_obj(BroadcastMessage(kind, body), id=job.broadcast_id)


def job(update_message=""):
    return BuildRequest(BROADCAST_ID, "shop", "file:///srv/shop.tar.gz", COMMIT, update_message, 6)


@pytest.fixture
def queue(service_runner) -> Any:
    service = Service()
    service.add_server("queue", BuildQueue)
    return service_runner(service)


@pytest.fixture
def bare(queue) -> Iterator[Any]:
    """A plain REQ, connected to the service. What is asked is bytes, written by hand."""
    context = zmq.green.Context()
    socket = context.socket(zmq.REQ)
    socket.connect(queue.endpoint("queue.request"))

    def ask(body: bytes, mimetype: bytes = b"application/json") -> tuple[bytes, Any]:
        socket.send_multipart([b"", mimetype, body])
        assert socket.poll(PATIENCE * 1000)
        _, answered, answer = socket.recv_multipart()
        return answered, json.loads(answer)

    yield ask
    context.destroy(linger=0)


BY_HAND = (
    b'{"broadcast_id": "9b2c1a34-6f0e-4d8a-8c55-0f3d1e7a2b90:2aae6c35c94fcfb415dbe95f408b9ce91ee846ed",'
    b' "app": "shop", "archive_uri": "https://archives.example.org/shop.tar.gz",'
    b' "commit": "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed", "update_message": "", "release_version": 6}'
)
RELEASED = {"version": 7, "app": "shop", "commit": COMMIT, "env": {}, "processes": {"web": "run"}}


def test_a_peer_that_writes_json_by_hand_is_understood_and_understands(bare):
    assert bare(BY_HAND) == (b"application/json", RELEASED)


def test_a_peer_may_send_msgpack(bare):
    assert bare(msgspec.msgpack.encode(json.loads(BY_HAND)), b"application/msgpack") == (b"application/json", RELEASED)
    assert bare(job().to_bytes("application/msgpack"), b"application/msgpack") == (b"application/json", RELEASED)


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        (b"6c35c9", b"", "$.broadcast_id: found '9b2c1a34-"),
        (b'"commit": "2aae', b'"commit": "2AAx', "$.commit: found '2AAx6c35c94"),
        (b'"release_version": 6', b'"release_version": -6', "$.release_version: found -6, expected an integer from 0"),
        (b', "release_version": 6', b"", "$: the field 'release_version' is missing, expected an integer from 0"),
        (BY_HAND, b"[]", "$: found an array, expected an object, BuildRequest"),
    ],
)
def test_a_bad_body_is_answered_by_the_problem_invalid_data_with_the_path(queue, bare, written, instead, told):
    mimetype, problem = bare(BY_HAND.replace(written, instead))
    assert mimetype == b"application/problem+json"
    assert (problem["type"], problem["status"]) == ("urn:dploylib:invalid-data", 422)
    assert told in problem["detail"]
    assert queue.server("queue").counts["request"].refused == 1


@pytest.fixture
def client(queue) -> Iterator[ObservableServiceClient]:
    endpoints = queue.endpoint("queue.request"), queue.endpoint("queue.out")
    with ObservableServiceClient(*endpoints, obj=BroadcastMessage, reply_obj=AppRelease, timeout=PATIENCE) as client:
        yield client


LINE = BroadcastMessage("output", BroadcastOutputData("line", f"building {COMMIT}"))


def test_broadcasts_are_followed_until_the_status_is_completed(client):
    following = client.follow(job(), id=BROADCAST_ID)
    seen = [received.obj for received in following]
    assert seen == [LINE, BroadcastMessage("status", BroadcastStatusData("completed"))]
    assert following.reply.obj == AppRelease(**RELEASED)


def test_a_status_of_error_is_raised_with_its_text(client):
    following = client.follow(job("broken"), id=BROADCAST_ID)
    assert next(following).obj == LINE
    with pytest.raises(RemoteFailure, match=f"{BROADCAST_ID} failed: it does not compile"):
        next(following)


def test_sockets_by_themselves_send_and_receive_messages():
    with Context.new() as context:
        receiver = Socket.bind_new("pull", "inproc://messages", context=context)
        sender = Socket.connect_new("push", "inproc://messages", context=context)
        for message in (job(), AppRelease(**APP_RELEASE), ZoneStopDeploy(("shop",))):
            sender.send_obj(message)
            assert receiver.receive_obj(type(message), timeout=PATIENCE) == message
        sender.send_json({"apps": [1]})
        with pytest.raises(InvalidData, match=r"\$\.apps\[0\]: found 1, expected a name"):
            receiver.receive_obj(ZoneStopDeploy, timeout=PATIENCE)
