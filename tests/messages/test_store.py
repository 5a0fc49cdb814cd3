"""The store of environment variables, in an SQLite file and in PostgreSQL."""

import contextlib
import re
import subprocess
import sys
import traceback
from functools import partial
from pathlib import Path

import gevent
import pytest

from dploylib import Server, Service, bind_in
from dploylib.errors import InvalidMessage, MissingPackage, StoreError
from dploylib.messages import EnvVars
from dploylib.messages.store import EnvVarsStore
from dploylib.servers import offload
from tests.messages.conftest import PASSWORD

ROOT = Path(__file__).parent.parent.parent


def test_an_app_that_is_not_known_has_no_variables(store):
    assert store.get("shop") == EnvVars()
    assert store.apps() == []


def test_what_is_set_is_there_for_the_next_one_who_opens_it(url, store):
    store.set("shop", "web", {"PORT": "8080", "GREETING": "grüß dich\n'; DROP TABLE env_vars; --", "EMPTY": ""})
    store.set("shop", "postgres", {"DATABASE_URL": "postgresql://db/shop"})
    store.set("blog", "web", {"PORT": "8081"})
    with EnvVarsStore(url) as other:
        shop = other.get("shop")
        assert isinstance(shop, EnvVars)
        assert shop == {
            "web": {"PORT": "8080", "GREETING": "grüß dich\n'; DROP TABLE env_vars; --", "EMPTY": ""},
            "postgres": {"DATABASE_URL": "postgresql://db/shop"},
        }
        assert other.get("blog") == {"web": {"PORT": "8081"}}
        assert other.apps() == ["blog", "shop"]


def test_the_order_does_not_depend_on_the_database(store):
    for service in ("b", "a", "B", "ä"):
        store.set("shop", service, {"y": "1", "X": "2", "x": "3"})
        store.set(service, "web", {"x": "1"})
    assert list(store.get("shop")) == ["B", "a", "b", "ä"]
    assert list(store.get("shop")["a"]) == ["X", "x", "y"]
    assert store.apps() == ["B", "a", "b", "shop", "ä"]


def test_setting_a_variable_again_changes_it_and_leaves_the_others(store):
    store.set("shop", "web", {"PORT": "8080", "DEBUG": "1"})
    store.set("shop", "web", {"PORT": "8081", "LEVEL": "info"})
    assert store.get("shop") == {"web": {"PORT": "8081", "DEBUG": "1", "LEVEL": "info"}}


def test_variables_are_unset_by_name(store):
    store.set("shop", "web", {"PORT": "8080", "DEBUG": "1", "LEVEL": "info"})
    store.set("shop", "worker", {"PORT": "8080"})
    store.unset("shop", "web", ["PORT", "LEVEL", "NEVER_SET"])
    assert store.get("shop") == {"web": {"DEBUG": "1"}, "worker": {"PORT": "8080"}}
    store.unset("shop", "web", ["DEBUG"])
    store.unset("shop", "worker", ("PORT",))
    assert store.get("shop") == {}
    assert store.apps() == []


def test_nothing_to_set_or_unset_is_nothing_done(store):
    store.set("shop", "web", {"PORT": "8080"})
    store.set("shop", "web", {})
    store.unset("shop", "web", [])
    assert store.get("shop") == {"web": {"PORT": "8080"}}


@pytest.mark.parametrize(
    ("app", "service", "variables", "told"),
    [
        ("", "web", {}, "app: found '', expected a name"),
        ("shop", "", {}, "EnvVars: found the key '', expected a name"),
        ("shop", "web", {"OK": "1", "A=B": "x"}, "EnvVars.web: found the key 'A=B', expected the name of a variable"),
        ("shop", "web", {"OK": "1", "PORT": 8080}, "EnvVars.web.PORT: found a number, expected a string"),
        ("shop", "web", {"OK": "1", "PORT": "\0"}, "EnvVars.web.PORT: found a string, expected a string without NUL"),
    ],
)
def test_what_no_message_could_carry_is_not_kept(store, app, service, variables, told):
    with pytest.raises(InvalidMessage) as caught:
        store.set(app, service, variables)
    assert str(caught.value).startswith(told)
    assert store.apps() == []


def test_one_name_instead_of_several_is_a_mistake(store):
    store.set("shop", "web", {"A": "1", "B": "2"})
    with pytest.raises(TypeError, match=r"names: found 'AB', expected several names, as in \['AB'\]"):
        store.unset("shop", "web", "AB")
    assert store.get("shop") == {"web": {"A": "1", "B": "2"}}


# At once -----------------------------------------------------------------------------------------------------------


def test_processes_that_set_different_names_at_once_lose_nothing(url, process):
    peers = [process("set_names.py", url, f"P{number}", 10) for number in range(4)]
    for peer in peers:
        assert peer.line() == "ready"
    for peer in peers:  # the table is not there yet: they make it at once, too
        peer.say("go")
    for peer in peers:
        assert peer.line() == "done"
    with EnvVarsStore(url) as store:
        variables = dict(store.get("shop")["web"])
    assert variables.pop("SHARED") == variables.pop("TWIN")
    assert variables == {f"P{mine}_{number}": str(number) for mine in range(4) for number in range(10)}


def test_variables_that_are_set_together_are_never_seen_apart(url, store, process):
    process("set_together.py", url)
    seen = set()
    while len(seen) < 20:
        web = store.get("shop").get("web", {"ONE": "", "TWIN": ""})
        assert web["ONE"] == web["TWIN"]
        seen.add(web["ONE"])


@pytest.fixture
def in_the_background(patched, spawn):
    """Call it in a greenlet: by `offload`, or in a patched program without, since psycopg then waits as gevent does."""
    return spawn if patched else partial(spawn, offload)


@pytest.fixture
def until_one_waits(postgresql, wait_until):
    """Wait until somebody waits in PostgreSQL for what somebody else does."""

    def wait():
        with contextlib.closing(postgresql.connect()) as connection:  # in a transaction, one would see no change
            statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_until(lambda: connection.execute(statement).fetchone() == (1,))

    return wait


class Answering(Server):
    def setup(self):
        self.store = EnvVarsStore(self.settings.get("store"))

    def teardown(self):
        self.store.close()

    @bind_in("request", "rep", concurrency=10)
    def get(self, socket, received):
        return offload(self.store.get, received.text)


def test_a_handler_answers_with_what_is_in_it(url, store, service_runner):
    store.set("shop", "web", {"PORT": "8080"})
    service = Service()
    service.add_server("env", Answering)
    client = service_runner(service, general={"store": url}).client("env.request")
    asked = [gevent.spawn(client.request, "shop") for _ in range(10)]
    assert [one.get(timeout=20).json for one in asked] == [{"web": {"PORT": "8080"}}] * 10


def test_while_postgresql_lets_a_call_wait_other_greenlets_run(postgresql, in_the_background, until_one_waits):
    url = postgresql.new_database()
    with EnvVarsStore(url) as store, contextlib.closing(postgresql.connect(url)) as other:
        store.set("shop", "web", {"PORT": "8080"})
        with other.transaction():
            other.execute("UPDATE env_vars SET value = '0'")
            waiting = in_the_background(store.set, "shop", "web", {"PORT": "8081"})
            until_one_waits()
            assert not waiting.ready()
        waiting.get(timeout=10)
        assert store.get("shop") == {"web": {"PORT": "8081"}}


def test_who_makes_the_table_at_the_same_time_is_no_failure(postgresql, in_the_background, until_one_waits):
    url = postgresql.new_database()
    with EnvVarsStore(url), contextlib.closing(postgresql.connect(url)) as other:
        other.execute("ALTER TABLE env_vars RENAME TO kept")
        with other.transaction():
            other.execute("CREATE TABLE env_vars (LIKE kept INCLUDING ALL)")
            waiting = in_the_background(EnvVarsStore, url)
            until_one_waits()
        with waiting.get(timeout=10) as store:
            store.set("shop", "web", {"PORT": "8080"})
            assert store.get("shop") == {"web": {"PORT": "8080"}}


# What goes wrong -----------------------------------------------------------------------------------------------------


def test_a_closed_store_says_so(store):
    store.close()
    store.close()
    for call in (lambda: store.get("shop"), lambda: store.set("shop", "web", {"A": "1"}), store.apps):
        with pytest.raises(StoreError, match="the store is closed"):
            call()


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"sqlite:///.*/nowhere/env\.db: unable to open database file"):
        EnvVarsStore(tmp_path / "nowhere" / "env.db")


def test_a_path_is_that_of_an_sqlite_file(tmp_path):
    for path in (tmp_path / "a.db", str(tmp_path / "b.db")):
        with EnvVarsStore(path) as store:
            store.set("shop", "web", {"A": "1"})
            assert repr(store) == f"<EnvVarsStore sqlite:///{path}>"
        assert Path(path).read_bytes().startswith(b"SQLite format 3")


def test_it_connects_again_when_the_server_has_closed_a_connection(postgresql, wait_until):
    url = postgresql.new_database()
    with EnvVarsStore(url) as store, contextlib.closing(postgresql.connect(url)) as other:
        store.set("shop", "web", {"A": "1"})
        theirs = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert other.execute(f"SELECT pg_terminate_backend(pid) {theirs}").fetchall() == [(True,)]
        wait_until(lambda: other.execute(f"SELECT count(*) {theirs}").fetchone() == (0,))
        assert store.get("shop") == {"web": {"A": "1"}}


def test_who_may_not_make_tables_can_use_one_that_is_there(postgresql):
    url = postgresql.new_database()
    with EnvVarsStore(url) as store, contextlib.closing(postgresql.connect(url)) as admin:
        store.set("shop", "web", {"A": "1"})
        admin.execute(f"CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")
        admin.execute("GRANT SELECT ON env_vars TO reader")
        admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as it is from PostgreSQL 15 on
    with EnvVarsStore(url.replace("//dploy:", "//reader:")) as store:
        assert store.get("shop") == {"web": {"A": "1"}}
        with pytest.raises(StoreError, match="permission denied for table env_vars"):
            store.set("shop", "web", {"A": "2"})


def everything_told_about(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error.args)


def test_a_password_that_is_not_accepted_is_in_no_error(postgresql):
    wrong = "the-wrong-one"
    url = postgresql.new_database()
    for bad in (url.replace(PASSWORD, wrong), url.replace(f":{PASSWORD}@", "@") + f"&password={wrong}"):
        with pytest.raises(StoreError, match="password authentication failed") as caught:
            EnvVarsStore(bad)
        assert str(caught.value).startswith("postgresql:///test_")
        assert wrong not in everything_told_about(caught.value)


def test_no_repr_has_the_password(postgresql):
    for url in (postgresql.new_database(), postgresql.new_database()):
        moved = url.replace(f":{PASSWORD}@", "@") + f"&password={PASSWORD}"
        for one in (url, moved):
            with EnvVarsStore(one) as store:
                assert repr(store).startswith("<EnvVarsStore postgresql:///test_")
                assert PASSWORD not in repr(store)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql+psycopg://u:hun@ter2@host/db", "more than one @"),
        ("postgresql+psycopg://u:hunter2@host:ter2/db", "cannot be read"),
        ("://u:hunter2", "cannot be read"),
        ("mysql://u:hunter2@host/db", "another kind of database; expected sqlite:///path or postgresql"),
        ("postgresql+hunter2://host/db", "another kind of database"),
        ("sqlite://", "a store in SQLite needs a file, as in sqlite:///env.db"),
        (":memory:", "a store in SQLite needs a file"),
        ("", "a store in SQLite needs a file"),
    ],
)
def test_a_url_that_is_none_is_refused_without_showing_it(url, told):
    with pytest.raises(ValueError, match="store") as caught:
        EnvVarsStore(url)
    assert told in str(caught.value)
    assert not re.search("hun|ter2", everything_told_about(caught.value))


def without_package(name: str, statements: str) -> str:
    """What a fresh interpreter prints that does not have the package."""
    script = f"import sys; sys.modules[{name!r}] = None\nfrom dploylib.errors import MissingPackage\n{statements}"
    return subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT)


def test_without_sqlalchemy_the_command_that_installs_it_is_told():
    told = without_package(
        "sqlalchemy", "try:\n    import dploylib.messages.store\nexcept MissingPackage as error:\n    print(error)"
    )
    assert told == "a store needs SQLAlchemy: pip install 'dploylib[store]'\n"


def test_without_psycopg_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    url = "postgresql+psycopg://u:hunter2@host/db"
    with pytest.raises(
        MissingPackage, match=r"postgresql://host/db needs psycopg: pip install 'psycopg\[binary\]'"
    ) as it:
        EnvVarsStore(url)
    assert "hunter2" not in everything_told_about(it.value)
