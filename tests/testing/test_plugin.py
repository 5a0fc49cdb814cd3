"""The plugin of pytest: patching, time limits and fixtures, seen from runs of pytest in which tests fail."""

import os
import sys
import textwrap

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.once("the tests here start interpreters of both kinds themselves")

PATIENCE = 60  # seconds until a run of pytest is given up
# The plugin of hypothesis imports all of hypothesis at the end of a run, which takes longer than everything else.
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
BOTH = pytest.mark.parametrize("how", [[], ["--dploylib-patch"]], ids=["plain", "patched"])
SERVICE = """
import time

import gevent
import pytest

from dploylib.servers import Server, bind_in
from dploylib.services import Service
from dploylib.testing import running


class Hangs(Server):
    @bind_in("request", "rep")
    def hang(self, socket, received):
        if received.text == "compute":
            while True:
                pass
        if received.text == "die":
            self.spawn(self.die)
        gevent.sleep(60)

    def die(self):
        raise ZeroDivisionError("nobody divides by that")


@pytest.fixture
def hangs(service_runner):
    service = Service()
    service.add_server("hangs", Hangs)
    return service_runner(service, graceful_timeout=0)
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """`run(source, *arguments)`: a run of pytest of these tests, in a process of its own."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def run(source, *arguments, command=("-m", "pytest")):
        pytester.makepyfile(source)
        return pytester.run(sys.executable, *command, *WITHOUT, *arguments, timeout=PATIENCE)

    return run


# Patched -----------------------------------------------------------------------------------------------------------

IS_PATCHED = """
import sys
import textwrap
from gevent import monkey
print("imported by", sys.orig_argv)

def test_it(record_property):
    assert monkey.is_module_patched("socket")
    assert monkey.is_module_patched("threading")
"""
AT_ALL = """
import threading
if "gevent.monkey" in __import__("sys").modules:
    from gevent import monkey
    assert monkey.is_module_patched("threading")
print("what a conftest prints")
"""


def test_tests_run_unpatched_unless_somebody_wants_it(run):
    run(IS_PATCHED).assert_outcomes(failed=1)


@pytest.mark.parametrize("where", ["command line", "ini", "environment", "module"])
def test_tests_run_patched_wherever_the_option_comes_from(where, run, pytester, monkeypatch):
    pytester.makeconftest(AT_ALL)
    arguments, command = [], ("-m", "pytest")
    if where == "command line":
        arguments = ["--dploylib-patch"]
    elif where == "ini":
        pytester.makeini("[pytest]\naddopts = --dploylib-patch")
    elif where == "environment":
        monkeypatch.setenv("PYTEST_ADDOPTS", "--dploylib-patch")
    else:
        command = ("-m", "dploylib.testing")
    result = run(IS_PATCHED, *arguments, "-v", command=command)
    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_the_script_of_pytest_can_patch_too(run, pytester):
    script = os.path.join(os.path.dirname(sys.executable), "pytest")
    assert os.path.exists(script)
    run(IS_PATCHED, "--dploylib-patch", command=(script,)).assert_outcomes(passed=1)


def test_patching_keeps_arguments_flags_output_and_the_exit_status(run, pytester):
    source = """
    import sys
    print("printed while it is imported")

    def test_a():
        assert sys.flags.dev_mode
        assert sys.warnoptions[-1] == "error:mine"

    def test_b():
        print("printed by a test")
        assert not "this one fails"

    def test_c():
        raise RuntimeError
    """
    command = ("-X", "dev", "-W", "error:mine", "-m", "pytest")
    result = run(source, "--dploylib-patch", "-k", "test_a or test_b", command=command)
    result.assert_outcomes(passed=1, failed=1, deselected=1)
    result.stdout.fnmatch_lines(["*printed by a test*"])
    assert result.ret == 1


def test_what_a_conftest_prints_when_it_fails_is_seen_once(run, pytester):
    pytester.makeconftest("print('what a conftest prints'); raise RuntimeError('that fails')")
    result = run("", "--dploylib-patch")
    assert (result.outlines + result.errlines).count("what a conftest prints") == 1
    assert "E   RuntimeError: that fails" in result.errlines


@pytest.mark.parametrize("kind", ["main", "runner", "workers"])
def test_patching_is_refused_where_starting_again_would_lose_something(kind, run, pytester):
    program = {
        "main": "import pytest, sys; sys.exit(pytest.main(['--dploylib-patch']))",
        "runner": "import pytest, sys; sys.exit(pytest.main())",
        "workers": "",
    }[kind]
    path = pytester.path / "pytest_runner.py"
    path.write_text(program)
    command = (str(path), "--dploylib-patch") if kind != "workers" else ("-m", "pytest", "--dploylib-patch")
    if kind == "workers":
        (pytester.path / "like_xdist.py").write_text(
            "def pytest_addoption(parser): parser.addoption('--numprocesses', type=int)"
        )
        command = (*command, "-p", "like_xdist", "--numprocesses", "2")
    pytester.makepyfile(IS_PATCHED)
    result = pytester.run(sys.executable, *command, timeout=PATIENCE)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    expected = "does not reach the workers" if kind == "workers" else "starts the interpreter again"
    result.stderr.fnmatch_lines([f"*ERROR: --dploylib-patch {expected}*"])


# Time limits -------------------------------------------------------------------------------------------------------


@BOTH
def test_a_test_that_waits_too_long_fails_and_all_greenlets_are_shown_by_name(run, how):
    source = """
    def test_waits(hangs):
        client = hangs.socket("hangs.request")
        client.send_text("hang")
        client.receive_text()

    def test_next():
        gevent.sleep(0)
    """
    result = run(SERVICE + textwrap.dedent(source), "--dploylib-timeout", "0.5", *how)
    result.assert_outcomes(passed=1, failed=1)
    output = result.stdout.str()
    assert "greenlet 'server hangs' is at" in output
    assert "greenlet 'receive hangs.request', with a message that is " in output
    result.stdout.fnmatch_lines(
        [
            "*client.receive_text()",
            "*TookTooLong: the call of this test took longer than 0.5 s (dploylib_timeout)",
            "*Captured greenlets call*",
            "the main greenlet is at",
            "*in test_waits",
        ]
    )


@BOTH
def test_each_phase_has_the_time_and_the_others_go_on(run, how):
    source = """
    import gevent, pytest

    @pytest.fixture
    def slow_to_set_up():
        gevent.sleep(60)

    @pytest.fixture
    def slow_to_tear_down():
        yield
        gevent.sleep(60)

    ends = []

    @pytest.fixture
    def torn_down(request):
        yield
        ends.append(request.node.name)

    def test_setup(torn_down, slow_to_set_up):
        pass

    def test_teardown(torn_down, slow_to_tear_down):
        gevent.sleep(0.01)

    def test_both(torn_down, slow_to_tear_down):
        gevent.sleep(60)

    @pytest.mark.dploylib_timeout(0.1)
    def test_mark():
        gevent.sleep(60)

    @pytest.mark.dploylib_timeout(seconds=0)
    def test_no_limit():
        gevent.sleep(0.5)

    def test_all_were_torn_down():
        assert ends == ["test_setup", "test_teardown", "test_both"]
    """
    result = run(source, "-o", "dploylib_timeout=0.3", "--strict-markers", *how)
    result.assert_outcomes(passed=3, failed=2, errors=3)
    output = result.stdout.str()
    assert "the setup of this test took longer than 0.3 s" in output
    assert output.count("E   TookTooLong: the teardown of this test took longer than 0.3 s") == 2
    assert "the call of this test took longer than 0.3 s" in output
    assert "the call of this test took longer than 0.1 s" in output


@BOTH
def test_a_test_that_computes_is_interrupted(run, how):
    source = """
    def test_computes():
        while True:
            pass

    def test_next():
        pass
    """
    result = run(source, "--dploylib-timeout=0.3", *how)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*TookTooLong: the call*", "*in the main greenlet, is at", "*in test_computes"])


@BOTH
def test_a_handler_that_blocks_the_hub_is_named_and_its_test_fails(run, how):
    source = """
    def test_waits(hangs):
        client = hangs.socket("hangs.request")
        client.send_text("compute")
        client.receive_text()
        client.receive_text()
        gevent.sleep(60)
    """
    result = run(SERVICE + textwrap.dedent(source), "--dploylib-timeout=0.5", *how)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*in greenlet 'receive hangs.request', with a message that is * s old, is at", "*in hang"]
    )
    result.stdout.fnmatch_lines(["*TookTooLong: the call*"])


def test_a_test_that_blocks_in_c_ends_the_run_with_the_stacks(run):
    source = """
    import threading

    def test_blocks():
        print("printed before")
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    """
    result = run(source, "--dploylib-timeout=0.3")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "printed before",
            "*the call of *::test_blocks does not end after 0.3 s*",
            "*in the main greenlet, is at",
            "*in test_blocks",
        ]
    )


@BOTH
def test_a_test_that_goes_on_when_it_is_interrupted_ends_the_run(run, pytester, how):
    pytester.makeconftest("from dploylib.testing import timeouts; timeouts._ENDING = 0.3")
    source = """
    import gevent

    def test_goes_on():
        while True:
            try:
                gevent.sleep(60)
            except BaseException:
                pass
    """
    result = run(source, "--dploylib-timeout=0.3", *how)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::test_goes_on does not end after*"])


@BOTH
def test_a_test_that_takes_too_long_fails_whatever_it_catches(run, how):
    source = """
    import gevent, pytest
    from gevent.monkey import get_original

    def test_blocks():
        get_original("time", "sleep")(0.6)

    def test_goes_on():
        while True:
            try:
                gevent.sleep(60)
            except BaseException:
                break

    def test_expects_anything():
        with pytest.raises(BaseException):
            gevent.sleep(60)

    @pytest.fixture
    def blocks():
        get_original("time", "sleep")(0.6)
        yield
        get_original("time", "sleep")(0.6)

    def test_with_a_fixture(blocks):
        pass
    """
    result = run(source, "--dploylib-timeout=0.3", *how)
    result.assert_outcomes(failed=3, errors=2)
    assert result.stdout.str().count("the call of this test took longer than 0.3 s") >= 3
    result.stdout.fnmatch_lines(["*the setup of this test took longer than 0.3 s*"])


def test_who_debugs_has_all_the_time_in_the_world(pytester, run):
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def debugger(request):
            request.config.hook.pytest_enter_pdb(config=request.config, pdb=None)
        """
    )
    source = """
    import gevent

    def test_is_debugged(request):
        request.config.hook.pytest_enter_pdb(config=request.config, pdb=None)
        gevent.sleep(0.5)
    """
    run(source, "--dploylib-timeout=0.1").assert_outcomes(passed=1)


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(given, run, pytester):
    told = f"*dploylib_timeout is a number of seconds from 0 on*{given}*"
    for arguments, expected in (
        (["--dploylib-timeout", given], told),
        (["-o", f"dploylib_timeout={given}"], "*'soon'*" if given == "soon" else told),  # by pytest itself
    ):
        result = run("def test_it(): pass", *arguments)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([expected])


def test_a_limit_may_be_written_in_toml(run, pytester):
    (pytester.path / "pytest.toml").write_text("[pytest]\ndploylib_timeout = 0.1\n")
    result = run("import gevent\ndef test_waits(): gevent.sleep(60)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*took longer than 0.1 s*"])


@pytest.mark.parametrize("mark", ["", "3, 4", "'soon'", "minutes=3"])
def test_a_mark_that_is_none_is_refused(mark, run):
    result = run(f"import pytest\n@pytest.mark.dploylib_timeout({mark})\ndef test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*dploylib_timeout * a number of seconds*"])


# Fixtures ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_service_that_dies_fails_its_test_with_the_cause(run, how):
    source = """
    def test_waits(hangs):
        client = hangs.socket("hangs.request")
        client.send_text("die")
        client.receive_text()

    def test_does_not_wait(hangs):
        hangs.server("hangs").spawn(hangs.server("hangs").die)

    def test_catches_it(hangs):
        client = hangs.socket("hangs.request")
        client.send_text("die")
        with pytest.raises(Exception):
            client.receive_text()

    @pytest.fixture
    def dead(hangs):
        test_waits(hangs)

    def test_has_a_fixture_that_waits(dead):
        pass

    def test_expects_it(hangs):
        test_catches_it(hangs)
        assert isinstance(hangs.wait_for_failure().__cause__, ZeroDivisionError)
    """
    result = run(SERVICE + textwrap.dedent(source), *how)
    result.assert_outcomes(passed=3, failed=1, errors=3)  # nothing is told twice
    output = result.stdout.str()
    assert output.count("ServiceFailing: server 'hangs' died") >= 4
    assert output.count("ZeroDivisionError: nobody divides by that") >= 4


@BOTH
def test_a_test_that_fails_since_its_service_has_died_tells_that_in_its_own_error(run, how):
    source = """
    def test_gets_nothing(hangs):
        client, reply = hangs.socket("hangs.request"), None
        client.send_text("die")
        try:
            reply = client.receive_text()
        except Exception:
            pass
        assert reply is not None
    """
    result = run(SERVICE + textwrap.dedent(source), *how)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert None is not None*", "*nobody divides by that*"])


@BOTH
def test_a_leak_of_the_service_fails_the_test(run, pytester, how):
    pytester.makeconftest("import dploylib.testing.leaks as leaks; leaks.SETTLE_SECONDS = 0.2")
    source = """
    def test_leaks(hangs):
        gevent.spawn(gevent.sleep, 60)
    """
    result = run(SERVICE + textwrap.dedent(source), *how)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*LeftBehind: <Service of hangs, stopped> left behind:", "*sleep(60)*which is at"])


def test_the_plugin_can_be_left_out(run):
    run("def test_it(leak_check): pass", "-p", "no:dploylib").assert_outcomes(errors=1)
