"""The plugin for pytest. It is loaded into every run in an environment that has dploylib, and does nothing unless used.

So nothing is imported here that is not needed for being loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from .harness import RunningService

__all__ = ["leak_check", "service_runner"]

_PYTEST = ("pytest", "py.test", "pytest.exe", "py.test.exe")
_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")  # flags of the interpreter

_LIMITS = (
    "how many seconds each of setup, call and teardown of a test may take; then the stacks of greenlets are shown."
)

_seconds_key = pytest.StashKey[float]()
_limit_key = pytest.StashKey[Any]()
_services_key = pytest.StashKey["list[RunningService]"]()


@pytest.fixture
def leak_check() -> Iterator[None]:
    """Fail the test if it leaves greenlets, sockets, threads, file descriptors or child processes behind.

    Use it first (`@pytest.mark.usefixtures("leak_check")`), so that other fixtures have cleaned up when it looks.
    """
    from .leaks import LeakCheck

    check = LeakCheck()
    yield
    left = check.wait()
    if left:
        pytest.fail("the test left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def service_runner(request: pytest.FixtureRequest) -> Iterator[Callable[..., RunningService]]:
    """`service_runner(service, config, ...)`: a service that runs until the test is over, as in `testing.running`."""
    from .harness import running

    request.node.stash[_services_key] = services = []
    with contextlib.ExitStack() as stack:

        def run(*args: Any, **kwargs: Any) -> RunningService:
            services.append(stack.enter_context(running(*args, **kwargs)))
            return services[-1]

        yield run


# Options -----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of the command line and of the ini file."""
    group = parser.getgroup("dploylib", "services and greenlets (dploylib)")
    group.addoption(
        "--dploylib-patch",
        action="store_true",
        help="let gevent patch the standard library before anything is imported: starts the interpreter again",
    )
    group.addoption("--dploylib-timeout", metavar="SECONDS", help=f"{_LIMITS} Overrides dploylib_timeout.")
    text = f"{_LIMITS} 0, as without it, is for ever."
    try:
        parser.addini("dploylib_timeout", text, type="float")
    except (AssertionError, ValueError):  # before pytest 8.4
        parser.addini("dploylib_timeout", text)


def pytest_configure(config: pytest.Config) -> None:
    """Read the options."""
    config.addinivalue_line("markers", f"dploylib_timeout(seconds): {_LIMITS}")
    given = config.getoption("--dploylib-timeout")
    if given is None:
        given = config.getini("dploylib_timeout") or 0
    config.stash[_seconds_key] = _seconds(given)


def _seconds(given: Any) -> float:
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = -1
    if not 0 <= seconds < 1e9:  # decades; a lock cannot wait for ever so many
        raise pytest.UsageError(f"dploylib_timeout is a number of seconds from 0 on, not {given!r}")
    return seconds


# Patched -----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(hookwrapper=True, tryfirst=True)  # before output is captured, which would be lost
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Start again if the standard library is to be patched, and is not."""
    monkey = sys.modules.get("gevent.monkey")
    if early_config.known_args_namespace.dploylib_patch and not (monkey and monkey.is_module_patched("socket")):
        _start_again(early_config)
    yield


def _start_again(config: pytest.Config) -> None:
    arguments, options = config.invocation_params.args, config.known_args_namespace
    if getattr(options, "numprocesses", None) or getattr(options, "tx", None):
        raise pytest.UsageError("--dploylib-patch does not reach the workers of pytest-xdist")
    flags = _interpreter_flags(arguments)
    if flags is None:
        raise pytest.UsageError(
            f"--dploylib-patch starts the interpreter again, and this one was not started for pytest alone "
            f"({' '.join(sys.orig_argv)}); let it run the module dploylib.testing in place of pytest, or patch first"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *flags, "-m", "dploylib.testing", *arguments])


def _interpreter_flags(arguments: Sequence[str]) -> list[str] | None:
    """The flags of this interpreter, if it was started to run pytest with these arguments, and for nothing else."""
    count = len(sys.orig_argv) - len(arguments)
    command = sys.orig_argv[1:count]
    if sys.orig_argv[count:] != list(arguments):
        return None
    if command[-2:] == ["-m", "pytest"]:
        flags = command[:-2]
    elif command and (command[-1] == "-mpytest" or os.path.basename(command[-1]) in _PYTEST):
        flags = command[:-1]
    else:
        return None
    rest = iter(flags)
    for flag in rest:
        if not flag.startswith("-") or flag.startswith(("-m", "-c")):
            return None  # it is another program that runs pytest, such as `coverage run -m pytest`
        if flag in _WITH_VALUE:
            next(rest, None)
    return flags


def _tell_services(item: pytest.Item, outcome: Any) -> None:
    """Let the services of the fixture know with what the test fails, which is not in their blocks."""
    if outcome.excinfo is not None:
        for it in item.stash.get(_services_key, ()):
            it._fails_with(outcome.excinfo[1])


# Time limits -------------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Read the markers."""
    for item in items:
        marker = item.get_closest_marker("dploylib_timeout")
        if marker is not None:
            if len(marker.args) + len(marker.kwargs) != 1 or not marker.kwargs.keys() <= {"seconds"}:
                raise pytest.UsageError(f"{item.nodeid}: the marker dploylib_timeout takes a number of seconds")
            item.stash[_seconds_key] = _seconds(marker.kwargs.get("seconds", *marker.args))


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, None]:
    """Limit how long the fixtures take."""
    outcome = yield from _phase(item, "setup")
    _tell_services(item, outcome)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Limit how long the test takes."""
    outcome = yield from _phase(item, "call")
    _tell_services(item, outcome)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, None]:
    """Limit how long the end of the fixtures takes."""
    yield from _phase(item, "teardown")


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Who debugs has all the time in the world."""
    limit = config.stash.get(_limit_key, None)
    if limit is not None:
        limit.end()


def _phase(item: pytest.Item, phase: str) -> Generator[None, Any, Any]:
    """One phase of a test, within its time: what took too long fails, also if it has caught what told it so."""
    with _time_limit(item, phase) as limit:
        outcome = yield
    if limit is not None and limit.passed and outcome.excinfo is None:  # or has ended before that could be raised
        outcome.force_exception(limit.error())
    return outcome


@contextlib.contextmanager
def _time_limit(item: pytest.Item, phase: str) -> Iterator[Any]:
    seconds = item.stash.get(_seconds_key, item.config.stash[_seconds_key])
    if not seconds:
        yield None
        return
    from .timeouts import TimeLimit

    class TookTooLong(pytest.fail.Exception):  # type: ignore[name-defined,misc]  # the stubs leave it out
        """What is raised in the test."""

        __module__, __qualname__ = "builtins", "TookTooLong"  # as those of pytest, for reports to call it by its name

        def __init__(self) -> None:
            super().__init__(f"the {phase} of this test took longer than {seconds:g} s (dploylib_timeout)")

    def report(stacks: str) -> None:
        item.add_report_section(phase, "greenlets", stacks)

    def give_up(stacks: str) -> None:
        _end_the_run(item, f"the {phase} of {item.nodeid} does not end after {seconds:g} s (dploylib_timeout)", stacks)

    item.config.stash[_limit_key] = limit = TimeLimit(seconds, TookTooLong, report, give_up)
    try:
        yield limit
    finally:
        limit.end()


def _end_the_run(item: pytest.Item, what: str, stacks: str) -> None:
    """End the process, which is stuck, and say why: all that can be done then."""
    try:
        terminal = item.config.get_terminal_writer()
        captured = ("", "")
        manager: Any = item.config.pluginmanager.getplugin("capturemanager")
        if manager:
            manager.suspend_global_capture(item)
            captured = manager.read_global_capture()
        terminal.line()
        for name, text in zip(("stdout", "stderr"), captured, strict=True):
            if text:
                terminal.sep("-", f"Captured {name}")
                terminal.line(text)
        terminal.sep("!", what)
        terminal.line(stacks)
        terminal.sep("!", "so the run ends here")
        terminal.flush()
    finally:
        os._exit(1)
