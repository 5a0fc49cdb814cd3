"""The shared fixtures find what they are there to find, plain and monkey-patched."""

import re
import sys
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.once("the tests here start interpreters of both kinds themselves")
HERE = Path(__file__).parent


@pytest.fixture(params=["plain", "patched"])
def run_pytest(request, pytester):
    """Run the given test module with our conftest in an interpreter of its own."""
    # A leak stays a leak: no need to wait for it as long as for a slow machine.
    impatient = "import dploylib.testing.leaks as leaks\nleaks.SETTLE_SECONDS = 0.2\n"
    pytester.makeconftest((HERE / "conftest.py").read_text() + impatient)
    runner = ["-m", "pytest" if request.param == "plain" else "dploylib.testing"]

    def run(source: str) -> pytest.RunResult:
        pytester.makepyfile(source)
        return pytester.run(sys.executable, *runner, "-p", "no:cacheprovider")

    return run


LEAKS = [
    ("gevent.spawn(gevent.sleep, 60)", "*Greenlet*sleep*"),
    ("gevent.spawn_raw(gevent.sleep, 60); gevent.sleep(0)", "*greenlet*which is at*"),
    ("os.pipe()", "2 x descriptor of pipe:*"),
    ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "*thread <Thread(*"),
    ("left.append(subprocess.Popen('cat', stdin=subprocess.PIPE))", "process *cat*"),
    ("left.append(zmq.Context().socket(zmq.PAIR))", "*descriptor of *"),
    ("left.append(dploylib.Socket.new('pair'))", "socket <Socket pair not attached>"),
]


def test_leak_check_finds_what_is_left_and_passes_what_goes_away_in_a_moment(run_pytest):
    result = run_pytest(
        f"""
        import dploylib, gevent, os, pytest, subprocess, threading, time, zmq.green
        left = []
        pytestmark = pytest.mark.usefixtures("leak_check")

        @pytest.mark.parametrize("leak", {[leak for leak, _ in LEAKS]!r}, ids=range({len(LEAKS)}))
        def test_leaks(leak):
            exec(leak)

        def test_leaves_nothing():
            gevent.spawn(gevent.sleep, 0.01)
            threading.Thread(target=time.sleep, args=(0.01,)).start()
            subprocess.run(["true"], check=True)
            gevent.get_hub().threadpool.apply(int)
            context = zmq.green.Context()
            context.socket(zmq.PAIR).close()
            context.term()
        """
    )
    result.assert_outcomes(passed=len(LEAKS) + 1, errors=len(LEAKS))
    _, *reports = re.split(r"_ ERROR at teardown of test_leaks\[\d\] _", result.stdout.str())
    for (_, found), report in zip(LEAKS, reports, strict=True):
        pytest.LineMatcher(report.splitlines()).fnmatch_lines(["*the test left behind:", found])


def test_ipc_dir_is_short_and_removed_and_finds_a_file_that_was_left(run_pytest):
    result = run_pytest(
        """
        seen = []

        def test_leaves_a_file(ipc_dir):
            (ipc_dir / "echo").touch()

        def test_uses_it(ipc_dir):
            seen.append(ipc_dir)
            assert len(bytes(ipc_dir)) < 68

        def test_is_gone():
            assert not seen[0].exists()
        """
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*files left in the directory for ipc endpoints: echo"])
