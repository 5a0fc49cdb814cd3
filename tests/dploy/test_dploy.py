"""Deploying with examples/dploy, all of which runs in one service here."""

import os
import re
import signal

import gevent
import msgspec
import pytest

from dploylib.messages import BuildRequest, EnvVars, ZoneDeployOrder, new_broadcast_id
from dploylib.transport import Envelope, ReceivedData
from dploylib.transport.codecs import ObjectDecoder
from examples.dploy.files import Unusable
from examples.dploy.processes import find_marked
from tests.dploy.conftest import SAMPLE, get

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def _stop_apps(dploy):
    yield
    for app in re.findall(r"^(\w+)  v", dploy("ps")[1], re.M):
        dploy("stop", app)


def url_in(said):
    return re.search(r"http://127\.0\.0\.1:\d+/", said)[0]


def test_an_app_is_pushed_served_changed_and_stopped(dploy, home):
    status, said = dploy("push", SAMPLE, "-m", "the first one")
    assert status == 0, said
    url = url_in(said)
    assert "<h1>Hello from dploy</h1>" in get(url)

    status, said = dploy("env", "set", "sample", "GREETING=Moin & more")
    assert (status, url_in(said)) == (0, url)
    assert "<h1>Moin &amp; more from dploy</h1>" in get(url)
    assert dploy("env", "get", "sample") == (0, "GREETING=Moin & more  # of app\n")

    status, said = dploy("releases", "sample")
    assert re.findall(r"^v(\d) +(\w+) .*  (.*)$", said, re.M) == [
        ("2", "runs", "env: GREETING"),
        ("1", "ran", "the first one"),
    ]

    status, said = dploy("rollback", "sample")
    assert (status, url_in(said)) == (0, url)
    assert "<h1>Hello from dploy</h1>" in get(url)

    _, said = dploy("ps")
    assert re.match(rf"sample  v1  {url}\n  web  +pid \d+ +\d+ s\n  clock +pid \d+ +\d+ s\n", said)
    _, said = dploy("logs", "sample")
    assert re.search(r"^\S+ web: listening at \d+$", said, re.M)
    assert re.search(r"^\S+ clock: it is ", said, re.M)

    assert len(list((home / "zone" / "apps" / "sample").iterdir())) == 1
    assert dploy("stop", "sample")[0] == 0
    assert dploy("ps")[1].startswith("sample  stopped\n")
    with pytest.raises(OSError, match="refused"):
        get(url)


def test_a_release_that_does_not_come_up_changes_nothing(dploy, app):
    dploy("push", SAMPLE, "--app", "careful")
    status, said = dploy("push", app("web: echo all is lost; exit 3"), "--app", "careful")
    assert status == 1
    assert "│ web: all is lost" in said
    assert re.search(r"v\d+ of careful did not come up: its process web ended with status 3; v\d+ goes on$", said, re.M)
    assert "from dploy" in get(url_in(dploy("ps")[1]))
    assert re.match(r"v\d+ +failed .*\nv\d+ +runs ", dploy("releases", "careful")[1])


def test_requirements_that_cannot_be_installed_make_no_release(dploy, app):
    directory = app("web: python web.py")
    (directory / "requirements.txt").write_text("--no-index\n./nothing\n")
    status, said = dploy("push", directory, "--app", "poor")
    assert status == 1
    assert re.search(r"│ ERROR: .*nothing", said)
    assert said.endswith("-m pip --python failed with status 1: see above\n")
    assert "there is no release of poor" in dploy("releases", "poor")[1]


def test_a_build_that_takes_too_long_is_ended(service, tmp_path, wait_until):
    build = service.servers["build"]
    build.own = msgspec.structs.replace(build.own, build_timeout=0.1)
    try:
        with pytest.raises(Unusable, match=r"^-c sleep 600 takes longer than 0\.1 s$"):
            build.run("endless", ["/bin/sh", "-c", "sleep 600"], tmp_path)
    finally:
        del build.own
    wait_until(lambda: not find_marked(str(build.home)))  # SIGKILL needs a moment


def test_how_a_job_ended_is_known_when_its_last_broadcast_is_lost(dploy, service):
    service.servers["zone"].database.execute("INSERT INTO outcomes VALUES ('lost', 'error', 'it is lost')")
    status, said = dploy("follow", "lost")
    assert (status, said[-11:]) == (1, "it is lost\n")


def test_nobody_who_asks_notices_that_a_release_takes_over(dploy, spawn):
    url = url_in(dploy("push", SAMPLE, "--app", "busy")[1])
    pages = []

    def ask():
        while not (pages and "two" in pages[-1]):
            pages.append(get(url))

    asking = spawn(ask)
    for greeting in ("one", "two"):
        assert dploy("env", "set", "busy", f"GREETING={greeting}")[0] == 0
    asking.get(timeout=20)
    greetings = [re.search("<h1>(.*) from", page)[1] for page in pages]
    assert sorted(set(greetings), key=greetings.index) == ["Hello", "one", "two"]


SLOW = """
import os, time, web

class Slow(web.Handler):
    def do_GET(self):
        if self.path == "/slow":
            print("asked", flush=True)
            while not os.path.exists({gate!r}):
                time.sleep(0.02)
            self.path = "/"
        super().do_GET()

web.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Slow).serve_forever()
"""


def test_a_release_that_is_replaced_finishes_its_requests(dploy, app, service, spawn, wait_until, tmp_path):
    directory = app("web: python slow.py")
    (directory / "slow.py").write_text(SLOW.format(gate=str(tmp_path / "gate")))
    url = url_in(dploy("push", directory, "--app", "patient")[1])
    page = spawn(get, f"{url}slow")
    wait_until(lambda: "web: asked" in dploy("logs", "patient")[1])
    deployments = service.servers["zone"].deployments

    def open_gate():
        wait_until(lambda: deployments["patient"].release.version == 2)
        (tmp_path / "gate").touch()

    opening = spawn(open_gate)
    assert dploy("env", "set", "patient", "GREETING=Moin")[0] == 0
    opening.get()
    assert "Hello from dploy" in page.get()
    assert "Moin from dploy" in get(url)


def test_a_job_that_comes_again_while_it_is_done_is_done_once(dploy, service, spawn):
    dploy("push", SAMPLE, "--app", "once")
    cargo = service.servers["build"].home / "cargos" / "once-v1.tar.gz"
    envelope = Envelope("again", "application/json", ZoneDeployOrder("once", cargo.as_uri()).to_bytes())
    zone = service.servers["zone"]
    before = zone.deployments["once"]
    working = [spawn(zone.work, ReceivedData(envelope, ObjectDecoder(zone.deserializer))) for _ in range(2)]
    gevent.joinall(working, raise_error=True)
    assert zone.deployments["once"] is not before
    assert dploy("logs", "once")[1].count("listening at") == 2


def test_an_app_that_logs_without_end_starves_nobody(dploy, app):
    assert dploy("push", app("web: python web.py", "clock: yes"), "--app", "loud")[0] == 0
    assert "from dploy" in get(url_in(dploy("ps")[1]))
    assert re.search(r"^\S+ clock: y$", dploy("logs", "loud")[1], re.M)
    assert dploy("stop", "loud")[0] == 0


def test_a_process_that_dies_is_started_again(dploy, wait_until):
    dploy("push", SAMPLE, "--app", "mortal")
    [pid] = re.findall(r"clock +pid (\d+)", dploy("ps")[1])
    os.killpg(int(pid), signal.SIGKILL)
    wait_until(lambda: "started 2 times, the last one was ended by SIGKILL" in dploy("ps")[1])


def test_a_job_that_comes_again_makes_no_second_release(service):
    build = service.servers["build"]
    request = BuildRequest(new_broadcast_id(COMMIT), "twice", "file:///nowhere", COMMIT, "", 0)
    versions = [build.new_release(id, request, EnvVars(), {"web": "true"}).version for id in ("one", "one", "two")]
    assert versions == [1, 1, 2]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["push", SAMPLE, "--app", "../sample"], "'../sample' is no name: it begins with"),
        (["releases", "nothing"], "there is no release of nothing: make one with `dploy push DIR --app nothing`"),
        (["rollback", "nothing", "3"], "there is no release of nothing"),
        (["env", "set", "sample", "GREETING"], "expected NAME=VALUE, got 'GREETING'"),
        (["logs", "No"], "'No' is no name"),
        (["logs", "nobody"], "nobody has logged nothing here: see `dploy ps`"),
        (["logs", "sample", "--lines", "-1"], "Invalid value for '-n' / '--lines': -1 is not in the range x>=0"),
    ],
)
def test_what_cannot_be_done_is_told(dploy, command, error):
    status, said = dploy(*command)
    assert status in (1, 2)
    assert f"Error: {error}" in said
