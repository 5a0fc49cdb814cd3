"""What a queue keeps in a file: all of it, in as few commits as it takes, and what happens when it cannot be kept."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading

import gevent
import pytest

from dploylib.errors import RemoteError, RequestTimeout, StoreError
from dploylib.servers.generic import QueueServer
from dploylib.servers.generic.jobs import Job
from dploylib.servers.generic.store import Batch, Journal, SQLiteStore

IDS = [b"", "ü€😀".encode(), b"\0nul\0", b" ", b"'; DROP TABLE jobs; --", b"x" * 10_000]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "jobs.db"


def job(number, id=b"", body=b"", priority=0):
    return Job(number, (id, b"text/plain", body), priority)


def row(one):
    id, mimetype, body = one.frames
    return one.number, id.decode(), mimetype.decode(), body, one.priority


def described(one):
    return one.number, one.frames, one.priority, one.state, one.deliveries, one.failures, one.reason


@pytest.fixture
def journal(path, spawn):
    """A journal that runs."""
    one = Journal(path, False, 10)
    running = spawn(one.run)
    yield one
    running.kill()
    one.close()


@pytest.fixture
def counted(journal, monkeypatch):
    """The batches that the journal has had written; a commit waits for `counted.go_on`."""

    class Counted(list):
        go_on = threading.Event()

    write, batches = journal._store.write, Counted()

    def write_when_told(batch):
        assert batches.go_on.wait(10)
        write(batch)
        batches.append(batch)

    monkeypatch.setattr(journal._store, "write", write_when_told)
    yield batches
    batches.go_on.set()


def test_what_was_written_is_loaded(path):
    jobs = [job(number, id, b"." * number, number - 2) for number, id in enumerate(IDS)]
    jobs.append(job(99, b"large", os.urandom(1_000_000)))
    batch = Batch()
    batch.put = [row(one) for one in jobs]
    jobs[0].deliveries, jobs[0].failures, jobs[0].reason, jobs[0].state = 3, 3, "it is bad: \0 ü", "dead"
    jobs[1].deliveries, jobs[1].failures = 2, 1
    batch.tries = {
        one.number: (one.number, one.deliveries, one.failures, one.reason, one.state == "dead") for one in jobs[:2]
    }
    batch.finished = [(7, b"finished"), (8, b""), (9, "früher".encode())]
    store = SQLiteStore(path, remembered=10)
    store.write(batch)
    store.close()
    store = SQLiteStore(path, remembered=10)
    loaded, finished = store.load()
    store.close()
    assert [described(one) for one in loaded] == [described(one) for one in jobs]
    assert finished == [(b"finished", 7), ("früher".encode(), 9)]


def test_more_rows_than_one_statement_takes_are_one_commit(path):
    batch = Batch()
    batch.put = [row(job(number, b"%d" % number)) for number in range(1, 1001)]
    batch.tries = {number: (number, 1, 0, "", False) for number in range(1, 1001)}
    batch.finished = [(number, b"%d" % number) for number in range(1, 778)]
    store = SQLiteStore(path, remembered=5)
    store.write(batch)
    loaded, finished = store.load()
    store.close()
    assert [one.number for one in loaded] == list(range(778, 1001))
    assert {one.deliveries for one in loaded} == {1}
    assert finished == [(b"%d" % number, number) for number in range(773, 778)]


def test_a_batch_that_cannot_be_written_leaves_nothing_in_the_file(path):
    batch = Batch()
    batch.put = [row(job(1)), row(job(2)), row(job(1))]
    store = SQLiteStore(path)
    with pytest.raises(StoreError, match=r"jobs\.db: UNIQUE constraint failed"):
        store.write(batch)
    assert store.load() == ([], [])
    batch.put.pop()
    store.write(batch)
    assert [one.number for one in store.load()[0]] == [1, 2]
    store.close()


def test_ids_of_finished_jobs_that_nobody_asks_for_do_not_fill_the_file(path):
    store = SQLiteStore(path, remembered=3)
    for begin in range(1, 3001, 500):
        batch = Batch()
        batch.finished = [(number, b"%d" % number) for number in range(begin, begin + 500)]
        store.write(batch)
    [kept] = store._connection.execute("SELECT count(*) FROM finished").fetchone()
    assert kept <= 1500
    assert store.load()[1] == [(b"2998", 2998), (b"2999", 2999), (b"3000", 3000)]
    store.close()


def test_all_that_comes_during_a_commit_shares_the_next_one(journal, counted, spawn, wait_until):
    journal.put(job(1))
    wait_until(lambda: journal._writing is not None)

    def put(number):
        journal.put(job(number))
        journal.sync()

    putters = [spawn(put, number) for number in range(2, 102)]
    wait_until(lambda: len(journal._batch.put) == 100)
    assert not any(putter.ready() for putter in putters)
    counted.go_on.set()
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert [len(batch.put) for batch in counted] == [1, 100]


def test_a_function_is_called_after_the_commit_of_all_that_was_told_before(journal, counted, wait_until):
    called = []
    journal.then(lambda: called.append((0, len(counted))))
    assert called == [(0, 0)]  # there was nothing to wait for
    journal.put(job(1))
    journal.then(lambda: called.append((1, len(counted))))
    wait_until(lambda: journal._writing is not None)
    journal.then(lambda: called.append((2, len(counted))))  # what is being written now is all there was
    journal.put(job(2))
    journal.then(lambda: called.append((3, len(counted))))
    assert called == [(0, 0)]
    counted.go_on.set()
    journal.sync()
    wait_until(lambda: len(called) == 4)
    assert called == [(0, 0), (1, 1), (2, 1), (3, 2)]


def test_a_journal_that_is_closed_during_a_commit_writes_what_is_left(path, spawn, wait_until):
    journal = Journal(path)
    write, begun, go_on = journal._store.write, [], threading.Event()

    def slowly(batch):
        begun.append(batch)
        assert go_on.wait(10)
        write(batch)

    journal._store.write = slowly
    running = spawn(journal.run)
    journal.put(job(1))
    wait_until(lambda: begun)
    journal.put(job(2))
    journal.then(lambda: pytest.fail("the server has stopped: it acts on nothing any more"))
    running.kill()
    closing = spawn(journal.close)
    go_on.set()
    closing.get(timeout=10)
    store = SQLiteStore(path)
    assert [one.number for one in store.load()[0]] == [1, 2]
    store.close()


def refused(path, start_queue):
    """What the start of a queue with this file raises: twice, since the first one is to leave nothing open."""
    for _ in range(2):
        with pytest.raises(StoreError) as error:
            start_queue(path=str(path))
        assert os.path.abspath(path) in str(error.value)
    return str(error.value)


def test_a_file_that_another_process_uses_is_refused_and_nobody_is_held_up_meanwhile(
    path, start_queue, spawn, monkeypatch
):
    monkeypatch.setattr("dploylib.servers.generic.store._LOCKED", 0.3)
    holder = SQLiteStore(path)
    turns = []

    def turn():
        while True:
            turns.append(1)
            gevent.sleep(0.001)

    spawn(turn)
    with pytest.raises(StoreError, match=f"{path}: database is locked; it is used by another process"):
        start_queue(path=str(path))
    assert len(turns) > 10
    holder.close()
    start_queue(path=str(path))


def test_a_file_of_a_newer_version_is_refused(path, start_queue):
    SQLiteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert "it is of version 7 of this format, and this dploylib knows 1" in refused(path, start_queue)


def test_a_missing_directory_is_an_error(path, start_queue):
    assert "unable to open database file" in refused(path / "missing" / "jobs.db", start_queue)


def test_what_is_no_database_is_refused_and_left_as_it_is(path, start_queue):
    path.write_bytes(b"a letter to the editor " * 100)
    assert "file is not a database" in refused(path, start_queue)
    assert path.read_bytes() == b"a letter to the editor " * 100


def test_a_database_of_something_else_is_refused(path, start_queue):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (title TEXT)")
    connection.close()
    assert "no such column" in refused(path, start_queue)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_file_that_is_read_only_is_refused(path, start_queue):
    SQLiteStore(path).close()
    path.chmod(0o444)
    assert "readonly" in refused(path, start_queue)


def test_run_says_in_one_line_what_is_wrong_with_the_file(tmp_path):
    (tmp_path / "service.py").write_text(
        "from dploylib import Service\n"
        "from dploylib.servers.generic import QueueServer\n"
        "service = Service()\n"
        "service.add_server('jobs', QueueServer)\n"
    )
    (tmp_path / "config.yaml").write_text(
        "servers: {jobs: {put: {uri: 'tcp://127.0.0.1:*'}, work: {uri: 'tcp://127.0.0.1:*'}}}\n"
        "settings: {jobs: {path: missing/jobs.db}}\n"
    )
    command = [sys.executable, "-m", "dploylib", "run", "service.py", "-c", "config.yaml"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    last = ended.stderr.splitlines()[-1]
    assert last == (
        "Error: server 'jobs' (settings.jobs.path): "
        f"cannot keep jobs in {tmp_path}/missing/jobs.db: unable to open database file; "
        f"the directory {tmp_path}/missing does not exist"
    )
    assert "Traceback" not in ended.stderr


class Filling(QueueServer):
    """A queue whose file may have a few pages only, until the test lets it have more."""

    most = 40
    started = 0

    def setup(self):
        super().setup()
        type(self).started += 1
        self._journal._store._connection.execute(f"PRAGMA max_page_count = {self.most}")


def test_nobody_is_told_that_a_job_is_accepted_which_is_not_in_the_file(path, start_queue, spawn, wait_until):
    class Queue(Filling):
        pass

    it = start_queue(Queue, path=str(path))
    client = it.client("jobs.put")
    accepted, refusals = set(), []

    def put(first):
        for number in range(first, first + 1000):
            try:
                client.request(b"." * 1000, id=f"{number}", timeout=3)
                accepted.add(f"{number}")
            except (RemoteError, RequestTimeout) as error:
                refusals.append(error)
                return

    putters = [spawn(put, first) for first in range(0, 10_000, 1000)]
    failure = it.wait_for_failure()
    cause = failure.__cause__
    while cause is not None and not isinstance(cause, StoreError):
        cause = cause.__cause__
    assert f"cannot keep jobs in {path}: database or disk is full" in str(cause)
    gevent.joinall(putters, timeout=10, raise_error=True)
    assert len(refusals) == 10
    store = SQLiteStore(path)
    kept = {one.id.decode() for one in store.load()[0]}
    store.close()
    assert accepted
    assert accepted <= kept


def test_a_queue_whose_disk_was_full_comes_back_with_supervision(path, start_queue, wait_until):
    class Queue(Filling):
        pass

    it = start_queue(Queue, {"jobs": {"restart": "on-failure", "backoff": 0.05}}, path=str(path))
    client = it.client("jobs.put")
    accepted = 0
    with contextlib.suppress(RemoteError, RequestTimeout):
        while True:
            client.request(b"." * 1000, timeout=3)
            accepted += 1
    Queue.most = 10_000
    wait_until(lambda: Queue.started == 2 and not it.server("jobs").stopping)
    assert len(it.server("jobs").jobs) == accepted
