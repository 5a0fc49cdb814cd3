"""Where a queue keeps its jobs: in SQLite, many changes with each commit."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from gevent.event import Event
from gevent.threadpool import ThreadPool

from ...errors import StoreError
from .jobs import Job

__all__ = ["Journal", "NoJournal", "SQLiteStore"]

_Result = TypeVar("_Result")

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, mimetype TEXT NOT NULL, body BLOB NOT NULL, priority INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS tries (
    number INTEGER PRIMARY KEY, deliveries INTEGER NOT NULL, failures INTEGER NOT NULL, reason TEXT NOT NULL,
    dead INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS finished (
    place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, number INTEGER NOT NULL
);
"""
_ROWS = 100  # in one statement: SQLite had a limit of 999 values for long
_LOCKED = 5.0  # seconds for which whoever had the file before may take to close it
_TRIM = 1000  # how many ids of finished jobs more than wanted are kept, so that not every commit deletes some


class Batch:
    """Changes that are written with one commit, and what is to be done when they are."""

    def __init__(self) -> None:
        self.put: list[Sequence[Any]] = []
        self.tries: dict[int, Sequence[Any]] = {}
        self.finished: list[tuple[int, bytes]] = []
        self.then: list[Callable[[], None]] = []
        self.written = Event()

    def __bool__(self) -> bool:
        return bool(self.put or self.tries or self.finished)


class NoJournal:
    """What a queue in memory has in place of a journal: everything is as good as written at once."""

    def put(self, job: Job) -> None:
        """A job was put."""

    def tried(self, job: Job) -> None:
        """A job is delivered, has failed, or is to be tried again."""

    def finished(self, job: Job) -> None:
        """A job is done."""

    def discarded(self, job: Job) -> None:
        """A job is gone, and its id is not to be remembered."""

    def then(self, function: Callable[[], None]) -> None:
        """Call a function when all that was told before is written."""
        function()

    def sync(self) -> None:
        """Return when all that was told before is written."""


class Journal(NoJournal):
    """Has what becomes of jobs written, with as much as there is in one commit (group commit).

    It takes what `SQLiteStore` takes, and raises what that raises. `run` is to run in a greenlet, and `close` is to be
    called in the end. The store is used in a thread of its own.
    """

    def __init__(self, path: str | os.PathLike[str], fsync: bool = True, remembered: int = 0) -> None:
        self._pool = ThreadPool(1)
        try:
            self._store = self._in_thread(SQLiteStore, path, fsync, remembered)
        except BaseException:
            self._pool.kill()
            raise
        self._batch = Batch()  # to be written next
        self._writing: Batch | None = None
        self._something = Event()
        self._broken = False

    def load(self) -> tuple[list[Job], list[tuple[bytes, int]]]:
        """What `SQLiteStore.load` returns. When it raises `StoreError`, this is closed."""
        try:
            return self._in_thread(self._store.load)
        except BaseException:
            self._broken = True
            self.close()
            raise

    def put(self, job: Job) -> None:
        """A job was put."""
        id, mimetype, body = job.frames
        self._batch.put.append((job.number, id.decode(), mimetype.decode(), body, job.priority))
        self._something.set()

    def tried(self, job: Job) -> None:
        """A job is delivered, has failed, or is to be tried again."""
        self._batch.tries[job.number] = (job.number, job.deliveries, job.failures, job.reason, job.state == "dead")
        self._something.set()

    def finished(self, job: Job) -> None:
        """A job is done."""
        self._batch.finished.append((job.number, job.id))
        self._something.set()

    def discarded(self, job: Job) -> None:
        """A job is gone, and its id is not to be remembered."""
        self._batch.finished.append((job.number, b""))
        self._something.set()

    def then(self, function: Callable[[], None]) -> None:
        """Call a function when all that was told before is written."""
        batch = self._last()
        if batch is None:
            function()
        else:
            batch.then.append(function)

    def sync(self) -> None:
        """Return when all that was told before is written."""
        batch = self._last()
        if batch is not None:
            batch.written.wait()

    def _last(self) -> Batch | None:
        """What is to be written before all is written that was told so far."""
        return self._batch if self._batch else self._writing

    def run(self) -> None:
        """Write whenever there is something to write. Raises what the store raises, and then nothing is done after it.

        To be run in a greenlet of its own.
        """
        while True:
            self._something.wait()
            self._write()

    def _write(self) -> None:
        self._something.clear()
        batch, self._batch = self._batch, Batch()
        self._writing = batch
        try:
            self._in_thread(self._store.write, batch)
        except Exception:
            self._broken = True
            raise
        self._writing = None
        batch.written.set()
        for function in batch.then:
            function()

    def close(self) -> None:
        """Write what is left, and close the store."""
        try:
            if not self._broken:
                self._batch.then.clear()
                self._write()  # after the commit that is going on, if any: there is one thread
        finally:
            self._in_thread(self._store.close)
            self._pool.kill()

    def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        result, error = self._pool.apply(_outcome, (function, arguments))
        if error is not None:
            raise error
        return cast(_Result, result)


class SQLiteStore:
    """Keeps jobs in a file of SQLite, which nobody else can use meanwhile.

    With `fsync`, each commit is on the disk when it returns (`synchronous=FULL`); without it, a loss of power may lose
    the last ones, and the death of the process none. The ids of the last `remembered` finished jobs are kept.

    Raises `StoreError` when the file cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], fsync: bool = True, remembered: int = 0) -> None:
        self.path = os.fspath(path)
        self._remembered = remembered
        self._kept = 0
        try:
            self._connection = sqlite3.connect(
                self.path, timeout=_LOCKED, isolation_level=None, check_same_thread=False, cached_statements=500
            )
            with contextlib.ExitStack() as undo:
                undo.callback(self._connection.close)
                self._prepare(fsync)
                undo.pop_all()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _prepare(self, fsync: bool) -> None:
        execute = self._connection.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
        execute("BEGIN EXCLUSIVE")
        [version] = execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(
                f"it is of version {version} of this format, and this dploylib knows {_VERSION}"
            )
        for statement in filter(str.strip, _SCHEMA.split(";")):
            execute(statement)
        execute(f"PRAGMA user_version = {_VERSION}")
        execute("COMMIT")

    def load(self) -> tuple[list[Job], list[tuple[bytes, int]]]:
        """The jobs that are not finished, and the ids and numbers of those that were finished last.

        Raises `StoreError`.
        """
        try:
            return self._load()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _load(self) -> tuple[list[Job], list[tuple[bytes, int]]]:
        execute = self._connection.execute
        jobs: list[Job] = []
        for number, id, mimetype, body, priority, *tries in execute(
            "SELECT jobs.number, id, mimetype, body, priority, deliveries, failures, reason, dead FROM jobs"
            " LEFT JOIN tries ON tries.number = jobs.number"
        ):
            job = Job(number, (id.encode(), mimetype.encode(), body), priority)
            if tries[0] is not None:
                job.deliveries, job.failures, job.reason, dead = tries
                job.state = "dead" if dead else "waiting"
            jobs.append(job)
        finished = execute(
            "SELECT id, number FROM finished ORDER BY place DESC LIMIT ?", (self._remembered,)
        ).fetchall()
        self._kept = len(finished)
        return jobs, [(id.encode(), number) for id, number in reversed(finished)]

    def write(self, batch: Batch) -> None:
        """Write all changes of a batch, or none. Raises `StoreError`."""
        try:
            self._write(batch)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _write(self, batch: Batch) -> None:
        execute = self._connection.execute
        execute("BEGIN")
        try:
            # Many rows with each statement: between two of them, another thread may have the GIL for some time.
            for statement, rows in _statements(batch):
                execute(statement, rows)
            self._kept += sum(1 for _, id in batch.finished if id)
            if self._kept > self._remembered + _TRIM:
                execute(
                    "DELETE FROM finished WHERE place <= (SELECT max(place) FROM finished) - ?", (self._remembered,)
                )
                self._kept = self._remembered
            execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _error(self, error: sqlite3.Error) -> StoreError:
        path = os.path.abspath(self.path)
        hint = "; it is used by another process" if "locked" in str(error) else ""
        if not os.path.isdir(os.path.dirname(path)):
            hint = f"; the directory {os.path.dirname(path)} does not exist"
        return StoreError(f"cannot keep jobs in {path}: {error}{hint}")


def _outcome(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, Exception | None]:
    """What a function returns and what it raises, which the pool would print."""
    try:
        return function(*arguments), None
    except Exception as error:  # noqa: BLE001 - it is raised where it was called for
        return None, error


def _statements(batch: Batch) -> Iterator[tuple[str, list[Any]]]:
    for rows in _chunks(batch.put):
        yield f"INSERT INTO jobs VALUES {_places(len(rows), 5)}", [*itertools.chain.from_iterable(rows)]
    for rows in _chunks(batch.tries.values()):
        yield f"REPLACE INTO tries VALUES {_places(len(rows), 5)}", [*itertools.chain.from_iterable(rows)]
    for rows in _chunks(batch.finished):
        numbers = [number for number, _ in rows]
        for table in ("jobs", "tries"):
            yield f"DELETE FROM {table} WHERE number IN {_places(1, len(rows))}", numbers
        with_id = [value for number, id in rows if id for value in (id.decode(), number)]
        if with_id:
            yield f"INSERT INTO finished (id, number) VALUES {_places(len(with_id) // 2, 2)}", with_id


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(rows)
    while chunk := list(itertools.islice(iterator, _ROWS)):
        yield chunk


def _places(rows: int, values: int) -> str:
    row = f"({', '.join('?' * values)})"
    return ", ".join([row] * rows)
