"""Fixtures for the tests of messages: databases, and peers in processes of their own."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from dploylib.messages.store import EnvVarsStore
from tests.processes import Process, starter

PEERS = Path(__file__).parent / "peers"
PASSWORD = "geheim-und-lang"


class Cluster:
    """A PostgreSQL of its own, on a unix socket, with a user `dploy` who needs a password."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._databases = 0
        # PostgreSQL refuses to run as root.
        user = "nobody" if os.geteuid() == 0 else None
        self._as_user: dict[str, Any] = {"user": user, "extra_groups": []} if user else {}
        if user:
            account = pwd.getpwnam(user)
            self._as_user["group"] = account.pw_gid
            os.chown(directory, account.pw_uid, account.pw_gid)
        password_file = directory / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        self._run("initdb", "--no-sync", "--auth=scram-sha-256", "-U", "dploy", "--pwfile", str(password_file))
        options = f"-F -k {directory} -c listen_addresses=''"
        self._run("pg_ctl", "start", "-w", "-l", str(directory / "log"), "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-w", "-m", "immediate")

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, "-D", self._directory / "data", *arguments]
        done = subprocess.run(
            command, cwd=self._directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._as_user
        )
        log = self._directory / "log"
        assert done.returncode == 0, f"{program} failed\n{log.read_text() if log.exists() else ''}"

    def connect(self, url: str | None = None) -> "psycopg.Connection[Any]":
        """A connection, to the database of this URL if one is given, in which every statement is a transaction."""
        database = make_url(url).database if url else "postgres"
        return psycopg.connect(
            host=str(self._directory), user="dploy", password=PASSWORD, dbname=database, autocommit=True
        )

    def new_database(self) -> str:
        """The URL of a database that nobody has used."""
        self._databases += 1
        name = f"test_{self._databases}"
        with contextlib.closing(self.connect()) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://dploy:{PASSWORD}@/{name}?host={self._directory}"


def programs_of_postgresql() -> Path | None:
    """Where PostgreSQL is installed: the programs of its server are mostly not on PATH."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((place for place in reversed(places) if (place / "initdb").exists()), None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """A PostgreSQL that runs for the tests alone."""
    programs = programs_of_postgresql()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or in /usr/lib/postgresql")
    directory = Path(tempfile.mkdtemp(prefix="dl-pg-"))  # short, for the path of the socket, and open to other users
    try:
        cluster = Cluster(programs, directory)
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store can be: the test runs with an SQLite file, and with PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'env.db'}"
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def store(url: str) -> Iterator[EnvVarsStore]:
    """An empty store."""
    with EnvVarsStore(url) as store:
        yield store


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    """`process("set_names.py", url)`: a peer in a process of its own."""
    yield from starter(PEERS)
