"""Where environment variables are kept: an SQLite file, or a database of PostgreSQL. It needs SQLAlchemy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final

from ..errors import InvalidMessage, MissingPackage, StoreError
from .explaining import flaw_in
from .fields import AppName
from .model import EnvVars

try:
    import sqlalchemy as sql
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
except ModuleNotFoundError as error:
    if error.name != "sqlalchemy":
        raise
    raise MissingPackage("a store needs SQLAlchemy: pip install 'dploylib[store]'") from error

__all__ = ["EnvVarsStore"]

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_INSERT: Final[Mapping[str, Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_LOCK_PATIENCE = 30  # seconds for which SQLite waits until another process has written

_TABLE: Final = sql.Table(
    "env_vars",
    sql.MetaData(),
    sql.Column("app", sql.Text, primary_key=True),
    sql.Column("service", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("value", sql.Text, nullable=False),
)


class EnvVarsStore:
    """Keeps the `EnvVars` of apps in a database. Each change is a transaction: all of it is done, or nothing.

    For example::

        with EnvVarsStore("env.db") as store:
            store.set("shop", "web", {"PORT": "8080"})
            store.get("shop")

    `where` is the path of an SQLite file, which is made if it is not there, or the URL of a database:
    `postgresql+psycopg://user:password@host/database`, or `sqlite:///path`. The table `env_vars` is made in it if it is
    not there. User and password are in no repr and in no error. Raises `StoreError` when there is no such database, and
    `MissingPackage` without its driver.

    Any number of threads and processes may change the same app at once: what each sets is kept. A store belongs to its
    process: make one in each, in the `setup` of a server say.

    Calls block. Those of SQLite are short, unless another process is writing: then they wait for up to 30 seconds.
    Those of PostgreSQL take their way over the network. Inside a handler, call them by `servers.offload`. In a program
    that is monkey-patched, psycopg lets other greenlets run while it waits, and needs no `offload`; SQLite does.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        url = _url_of(where)
        self._place = _place_of(url)
        self._closed = False
        # What a file of SQLite is opened for is over at once, and can then be done in any thread. A server may have
        # closed a connection that waits to be used again.
        options: dict[str, Any] = (
            {"poolclass": sql.pool.NullPool, "connect_args": {"timeout": _LOCK_PATIENCE}}
            if url.get_backend_name() == "sqlite"
            else {"pool_pre_ping": True}
        )
        try:
            self._engine = sql.create_engine(url, hide_parameters=True, **options)  # values are often secrets
        except ImportError as error:
            raise MissingPackage(f"{self._place} needs psycopg: pip install 'psycopg[binary]' ({error})") from error
        try:
            self._create_table()
        except BaseException:
            self.close()
            raise

    def get(self, app: str) -> EnvVars:
        """The variables of an app. There are none of an app that is not known."""
        columns = _TABLE.c
        with self._transaction() as connection:
            rows = connection.execute(
                sql.select(columns.service, columns.name, columns.value).where(columns.app == app)
            ).all()
        variables: dict[str, dict[str, str]] = {}
        for service, name, value in sorted(map(tuple, rows)):
            variables.setdefault(service, {})[name] = value
        return EnvVars(variables)

    def set(self, app: str, service: str, variables: Mapping[str, str]) -> None:
        """Set these variables of a service; its others stay. Raises `InvalidMessage` for what no variable can be."""
        flaw = flaw_in(app, AppName, "app")
        if flaw:
            raise InvalidMessage(flaw)
        checked = EnvVars({service: variables})
        # In one order, so that of two who set the same ones no one has what the other waits for.
        rows = [
            {"app": app, "service": service, "name": name, "value": value}
            for name, value in sorted(checked[service].items())
        ]
        if rows:
            insert = _INSERT[self._engine.dialect.name](_TABLE)
            key = list(_TABLE.primary_key.columns)
            with self._transaction() as connection:
                connection.execute(
                    insert.on_conflict_do_update(index_elements=key, set_={"value": insert.excluded.value}), rows
                )

    def unset(self, app: str, service: str, names: Iterable[str]) -> None:
        """Remove these variables of a service. It does not matter if some are not there."""
        if isinstance(names, str):
            raise TypeError(f"names: found {names!r}, expected several names, as in [{names!r}]")
        columns = _TABLE.c
        rows = [{"which": name} for name in sorted(names)]  # in one order, as in set()
        if rows:
            with self._transaction() as connection:
                connection.execute(
                    sql.delete(_TABLE).where(
                        columns.app == app, columns.service == service, columns.name == sql.bindparam("which")
                    ),
                    rows,
                )

    def apps(self) -> list[str]:
        """The names of the apps that have variables, sorted."""
        with self._transaction() as connection:
            return sorted(connection.execute(sql.select(_TABLE.c.app).distinct()).scalars())

    def close(self) -> None:
        """Close its connections. Closing it again does nothing; any other call raises `StoreError` from then on."""
        self._closed = True
        self._engine.dispose()

    def __enter__(self) -> EnvVarsStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<EnvVarsStore {self._place}>"

    # Underneath --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        if self._closed:
            raise StoreError(f"{self._place}: the store is closed")
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            said = error.orig if isinstance(error, DBAPIError) else error
            raise StoreError(f"{self._place}: {str(said).strip()}") from error

    def _create_table(self) -> None:
        if self._has_table():  # who may not make tables can use it all the same
            return
        try:
            with self._transaction() as connection:
                _TABLE.create(connection, checkfirst=False)
        except StoreError:
            if not self._has_table():  # else somebody else was quicker
                raise

    def _has_table(self) -> bool:
        with self._transaction() as connection:
            return sql.inspect(connection).has_table(_TABLE.name)


def _url_of(where: str | os.PathLike[str]) -> sql.URL:
    """The URL of a store. No error about it has any part of it: nobody knows which part of a wrong one is secret."""
    text = os.fspath(where)
    try:
        url = sql.make_url(text) if "://" in text else sql.URL.create("sqlite", database=text)
    except (ArgumentError, ValueError):
        raise ValueError(f"the URL of the store cannot be read; {_EXPECTED}") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"the URL of the store is that of another kind of database; {_EXPECTED}")
    if "@" in (url.host or ""):
        raise ValueError(f"the URL of the store has more than one @; {_EXPECTED}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ValueError("a store in SQLite needs a file, as in sqlite:///env.db: each call opens it anew")
    return url.set(drivername=_DRIVERS[url.drivername])


_EXPECTED = (
    "expected sqlite:///path or postgresql+psycopg://user:password@host:5432/database, "
    "with %40 for an @, %3A for a : and %2F for a / in the password"
)


def _place_of(url: sql.URL) -> str:
    """Where a database is, for people: without user and password, which the query may have, too."""
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"
