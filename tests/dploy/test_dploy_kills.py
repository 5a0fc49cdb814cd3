"""SIGKILL for each service of examples/dploy, in the middle of a push, and what becomes of the push."""

import re
import signal
import textwrap
import time

import pytest

from examples.dploy.processes import find_marked
from tests.dploy.conftest import PATIENCE, SAMPLE, get

pytestmark = pytest.mark.once("services run in interpreters of their own, which decide to patch")

# What builds a package that an app requires: it says that it has begun, and waits until it may go on.
BACKEND = """
import pathlib, time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    with open({begun!r}, "a") as file:
        file.write("x")
    while not pathlib.Path({go_on!r}).exists():
        time.sleep(0.02)
    info = "greeting-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(directory, "greeting-1.0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("greeting.py", "def main(): import runpy; runpy.run_path('web.py', run_name='__main__')")
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/entry_points.txt", "[console_scripts]\\ngreet = greeting:main\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return "greeting-1.0-py3-none-any.whl"
"""


class Gate:
    """Where something says that it has begun, and waits until it may go on."""

    def __init__(self, directory, name):
        self.begun, self.go_on = directory / f"{name}-begun", directory / f"{name}-go-on"
        self.wait = f"printf x >> {self.begun}; while [ ! -e {self.go_on} ]; do sleep 0.05; done"  # for a shell

    def wait_for(self, times=1):
        """Wait until it was begun so often."""
        deadline = time.monotonic() + PATIENCE
        while not self.begun.exists() or len(self.begun.read_text()) < times:
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.01)

    def open(self):
        self.go_on.touch()


@pytest.fixture
def building(tmp_path):
    return Gate(tmp_path, "building")


@pytest.fixture
def starting(tmp_path):
    return Gate(tmp_path, "starting")


@pytest.fixture
def slow_app(app, building, starting):
    """An app that waits at a gate while it is built, and at another one while it starts."""
    directory = app(f"web: {starting.wait}; exec greet", "clock: python clock.py")
    (directory / "requirements.txt").write_text("./greeting\n")
    package = directory / "greeting"
    package.mkdir()
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project = '[project]\nname = "greeting"\nversion = "1.0"\n'
    (package / "pyproject.toml").write_text(system + project)
    backend = BACKEND.format(begun=str(building.begun), go_on=str(building.go_on))
    (package / "backend.py").write_text(textwrap.dedent(backend))
    return directory


def test_a_push_survives_crashes_of_all_four_services(processes, slow_app, building, starting):
    push = processes.begin("push", slow_app, "--app", "tough")
    building.wait_for()
    for name in ("queues", "broadcast", "build"):
        processes.kill(name)
        assert name != "build" or find_marked(str(processes.home / "build"))  # a build that has lost its center
        processes.start(name)
    building.wait_for(2)
    building.open()

    starting.wait_for()
    before = find_marked(str(processes.home / "zone"))
    processes.kill("zone")
    processes.start("zone")
    starting.wait_for(2)
    assert not before & find_marked(str(processes.home / "zone"))
    starting.open()

    said, _ = push.communicate(timeout=PATIENCE)
    assert push.returncode == 0, said
    assert "from dploy" in get(re.search(r"v1 of tough runs at (\S+)\n$", said)[1])
    assert re.fullmatch(r"v1 +runs .*\n", processes.dploy("releases", "tough")[1])
    assert len(building.begun.read_text()) == len(starting.begun.read_text()) == 2
    assert processes.dploy("stop", "tough")[0] == 0


def test_a_push_goes_on_without_its_client_and_is_followed_again(processes, app, starting):
    push = processes.begin("push", app(f"web: {starting.wait}; exec python web.py"), "--app", "left")
    starting.wait_for()
    push.send_signal(signal.SIGINT)
    said, _ = push.communicate(timeout=PATIENCE)
    assert push.returncode == 130
    follow = processes.begin(*re.search(r"^it goes on; to follow it again: dploy (follow) (\S+)$", said, re.M).groups())
    assert follow.stdout.readline().endswith(" v1 starts\n")
    starting.open()
    said, _ = follow.communicate(timeout=PATIENCE)
    assert (follow.returncode, "v1 of left runs at" in said) == (0, True)
    processes.dploy("stop", "left")


def test_an_app_runs_again_where_it_was_when_its_zone_has_crashed(processes):
    _, said = processes.dploy("push", SAMPLE)
    url = re.search(r"http://\S+", said)[0]
    processes.dploy("push", SAMPLE, "--app", "stopped")
    processes.dploy("stop", "stopped")
    following = processes.begin("logs", "sample", "--follow")
    assert "listening at" in "".join(following.stdout.readline() for _ in range(3))
    processes.kill("zone")
    processes.start("zone")
    for line in following.stdout:  # of the new process
        if "listening at" in line:
            break
    assert "from dploy" in get(url)
    assert re.search(rf"^sample  v1  {url}\n(  .*\n)+stopped  stopped\n", processes.dploy("ps")[1], re.M)
    processes.dploy("stop", "sample")
