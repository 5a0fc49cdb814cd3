"""A durable queue that is killed again and again, and workers that are, while jobs are put, done and acknowledged.

`HARD_KILLS` says how often (8).
"""

import itertools
import os
import random
import signal
from collections import Counter
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from dploylib import RequestClient
from dploylib.errors import ConnectionLost, RemoteError
from tests.processes import starter

pytestmark = [
    pytest.mark.usefixtures("leak_check"),
    pytest.mark.once("the queue and its workers run in processes of their own"),
]

KILLS = int(os.environ.get("HARD_KILLS", "8"))
PUTTERS = 10
SEED = random.randrange(1 << 32)


@pytest.fixture
def start():
    yield from starter(Path(__file__).parent)


class Putters:
    """Greenlets that put jobs until they are stopped, and know which were accepted."""

    def __init__(self, uri: str) -> None:
        self.accepted: set[str] = set()
        self._client = RequestClient(uri, timeout=30)
        self._over = Event()
        put = [self._put_with_id] * (PUTTERS // 2) + [self._put_without_id] * (PUTTERS // 2)
        self._greenlets = [gevent.spawn(one, number) for number, one in enumerate(put)]

    def _put_with_id(self, putter: int) -> None:
        """Repeat what was not answered. None of these puts may fail, however often the queue is killed."""
        for number in itertools.count():
            if self._over.is_set():
                return
            job = f"id-{putter}-{number}"
            while True:
                try:
                    self._client.request(job, id=job, idempotent=True)
                except (ConnectionLost, RemoteError):  # it was tried several times
                    continue
                break
            self.accepted.add(job)

    def _put_without_id(self, putter: int) -> None:
        """Forget what was not answered. It may be in the queue, or not."""
        for number in itertools.count():
            if self._over.is_set():
                return
            job = f"no-{putter}-{number}"
            try:
                self._client.request(job)
            except ConnectionLost:
                continue
            self.accepted.add(job)

    def stop(self) -> None:
        self._over.set()
        gevent.joinall(self._greenlets, raise_error=True)
        self._client.close()


def has_settled(admin: RequestClient) -> bool:
    status = admin.request({"do": "status"}, idempotent=True).json
    assert status["dead"] == 0, admin.request({"do": "dead"}).json
    return status["waiting"] + status["held"] + status["delayed"] == 0


@pytest.mark.timeout(60 + 6 * KILLS)
@pytest.mark.parametrize("also_workers", [False, True])
def test_nothing_that_a_queue_has_accepted_is_lost_when_it_is_killed(
    ipc_dir, tmp_path, start, wait_until, also_workers
):
    chance = random.Random(SEED)
    put, work, admin = (f"ipc://{ipc_dir}/{name}" for name in ("put", "work", "admin"))
    notes = tmp_path / "done"

    def start_queue():
        return start("queue_target.py", put, work, admin, tmp_path / "jobs.db")

    def start_worker():
        return start("worker_target.py", work, notes)

    queue, workers = start_queue(), [start_worker(), start_worker()]
    for one in (queue, *workers):
        assert one.line() == "ready"
    putters = Putters(put)
    for kill in range(KILLS):
        gevent.sleep(chance.uniform(0.02, 0.3))  # any moment at all
        if also_workers and kill % 4 == 3:
            workers.pop(0).kill()
            workers.append(start_worker())
        queue.kill()
        queue = start_queue()
        assert queue.line() == "ready"
    putters.stop()
    with RequestClient(admin) as client:
        wait_until(lambda: has_settled(client))
    for one in (queue, *workers):
        one.signal(signal.SIGTERM)
        assert one.end() == 0

    attempts: dict[str, list[int]] = {}
    for line in notes.read_text().splitlines():
        job, attempt = line.split()
        attempts.setdefault(job, []).append(int(attempt))
    lost = putters.accepted - attempts.keys()
    unmarked = {job: counts for job, counts in attempts.items() if len(counts) != len(set(counts))}
    again = sum(len(counts) - 1 for counts in attempts.values())
    print(f"seed {SEED}: {len(putters.accepted)} accepted, {len(attempts)} done, {again} delivered again")
    assert not lost
    assert not unmarked  # each delivery of a job has a number of its own, so that only one can say that it is the first
    assert again, "no delivery was cut off by any kill: the test tests nothing"
    assert Counter(job.partition("-")[0] for job in putters.accepted).keys() == {"id", "no"}
