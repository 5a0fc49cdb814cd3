"""A worker that is a plain DEALER, as one that knows nothing of dploylib, and what it says."""

import json
from typing import Any

from dploylib.transport import Metadata

READY = b"application/vnd.dploylib.ready+json"
HEARTBEAT = b"application/vnd.dploylib.heartbeat"


def problem(kind: str, status: int = 503) -> tuple[bytes, bytes]:
    """The last two frames of an answer that is a problem."""
    body = {"type": f"urn:dploylib:{kind}", "title": kind, "status": status, "detail": "says the test"}
    return b"application/problem+json", json.dumps(body).encode()


class BareWorker:
    """A worker that is a plain DEALER, and speaks the protocol by hand."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    def ready(self, credit: int) -> "BareWorker":
        self.peer.send(b"", b"", READY, b'{"credit": %d}' % credit)
        return self

    def job(self) -> list[bytes]:
        """The next message that is no heartbeat: metadata, delimiter, id, mimetype, body."""
        while True:
            frames = self.peer.receive()
            if frames[-2] != HEARTBEAT:
                return frames

    def text(self) -> str:
        """The body of the next job, which is done then."""
        job = self.job()
        self.answer(job)
        return job[-1].decode()

    def answer(self, job: list[bytes], mimetype: bytes = b"text/plain", body: bytes = b"done") -> None:
        self.peer.send(job[0], b"", job[2], mimetype, body)

    def has_job(self) -> bool:
        """Whether a job has come. To be asked when everything that could come has had its time."""
        while self.peer.zmq_socket.poll(20):
            if self.peer.receive()[-2] != HEARTBEAT:
                return True
        return False

    def close(self) -> None:
        self.peer.zmq_socket.close(0)


def attempt(job: list[bytes]) -> int:
    """How often a job was delivered, as its metadata says."""
    metadata = Metadata.find(job[:1])
    assert metadata is not None
    return metadata.attempt
