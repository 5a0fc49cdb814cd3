"""Deploying with examples/dploy, all of which runs in one service here."""

import os
import re
import signal

import pytest

from dploylib.messages import BuildRequest, EnvVars, new_broadcast_id
from tests.dploy.conftest import SAMPLE, get

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def _stop_apps(dploy):
    yield
    for app in re.findall(r"^(\w+)  v", dploy("ps")[1], re.M):
        dploy("stop", app)


def url_in(said):
    return re.search(r"http://127\.0\.0\.1:\d+/", said)[0]


def test_an_app_is_pushed_served_changed_and_stopped(dploy):
    status, said = dploy("push", SAMPLE, "-m", "the first one")
    assert status == 0, said
    url = url_in(said)
    assert "<h1>Hello from dploy</h1>" in get(url)

    status, said = dploy("env", "set", "sample", "GREETING=Moin & more")
    assert (status, url_in(said)) == (0, url)
    assert "<h1>Moin &amp; more from dploy</h1>" in get(url)
    assert dploy("env", "get", "sample") == (0, "GREETING=Moin & more  # of app\n")

    status, said = dploy("releases", "sample")
    assert re.findall(r"^v(\d) +(\w+) .*  (.*)$", said, re.M) == [("2", "runs", "env: GREETING"), ("1", "ran", "the first one")]

    status, said = dploy("rollback", "sample")
    assert (status, url_in(said)) == (0, url)
    assert "<h1>Hello from dploy</h1>" in get(url)

    _, said = dploy("ps")
    assert re.match(rf"sample  v1  {url}\n  web  +pid \d+ +\d+ s\n  clock +pid \d+ +\d+ s\n", said)
    _, said = dploy("logs", "sample")
    assert re.search(r"^\S+ web: listening at \d+$", said, re.M)
    assert re.search(r"^\S+ clock: it is ", said, re.M)

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
    ],
)
def test_what_cannot_be_done_is_told(dploy, command, error):
    status, said = dploy(*command)
    assert status in (1, 2)
    assert f"Error: {error}" in said
