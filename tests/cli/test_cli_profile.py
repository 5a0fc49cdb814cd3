"""`dploylib run --profile`, and what `dploylib profile` makes of what the processes of a service say."""

import json
import signal
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from dploylib.cli import profile
from dploylib.cli.services import Running
from dploylib.control import asking
from dploylib.control.asking import Answer
from dploylib.control.profiling import Session

pytestmark = pytest.mark.once("commands run in interpreters of their own, which decide to patch")

STACK = ["receive echo.request\0greenlet\x000", "answer\0app.py\x007"]


@pytest.fixture
def processes(monkeypatch):
    """What the processes of the service answer, instead of their control servers; `asked` is what they were asked."""
    session = Session([(STACK, 0.5)], 0.0, 1.0, 0.001, 0.001, 500, [""], "process 1", 0.5, [], [])
    processes = SimpleNamespace(asked=[], answers=[Answer(pid, session.to_json(), "") for pid in (11, 12)])

    def ask(run_dir, verb, argument, timeout):
        assert timeout > argument["seconds"]
        processes.asked.append((run_dir, verb, argument["seconds"]))
        return processes.answers

    monkeypatch.setattr(asking, "ask", ask)
    monkeypatch.setattr(profile, "the_service", lambda name, pidfile, run_dir: Running(name, f"/run/{name}", []))
    return processes


def invoke(*arguments):
    return CliRunner().invoke(profile.command, arguments)


# Running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".html", ".json", ".txt"])
def test_a_run_leaves_its_profile(start_service, dploylib, directory, suffix):
    service = start_service("--profile", f"profile{suffix}")
    dploylib("call", service.endpoint("echo"), "hello")
    service.process.send_signal(signal.SIGTERM)
    assert service.ended() == 0
    assert "idle: nothing to do" in (directory / f"profile{suffix}").read_text()


def test_a_run_that_fails_leaves_it_too(start_service, dploylib, directory):
    service = start_service("--profile", "profile.txt")
    dploylib("call", service.endpoint("spawn"), "with the server")
    assert service.ended() == 1
    assert (directory / "profile.txt").exists()


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("profile.svg", b"'profile.svg': expected a name that ends in .html, .json, .txt"),
        ("missing/profile.html", b"'missing/profile.html' cannot be written"),
        ("directory.html", b"'directory.html' cannot be written"),
    ],
)
def test_where_it_cannot_be_written_nothing_is_started(dploylib, directory, file, complaint):
    (directory / "directory.html").mkdir()
    done = dploylib("run", "sample", "-c", "config.yaml", "--profile", file)
    assert (done.returncode, done.stdout) == (2, b"")
    assert complaint in done.stderr


# A running service ------------------------------------------------------------------------------------------------


def test_without_a_file_it_is_text(processes):
    done = invoke("echo", "--seconds", "3")
    assert done.exit_code == 0, done.output
    assert processes.asked == [("/run/echo", "PROFILE", 3.0)]
    assert all(name in done.output for name in ("process 11", "process 12", "receive echo.request", "answer"))


def test_the_suffix_says_the_form(processes, tmp_path):
    for suffix in (".html", ".json", ".txt"):
        done = invoke("echo", "-o", str(tmp_path / f"profile{suffix}"))
        assert (done.exit_code, done.output) == (0, "")
    assert processes.asked == [("/run/echo", "PROFILE", 10.0)] * 3
    assert (tmp_path / "profile.html").read_text().startswith("<!DOCTYPE html>")
    assert json.loads((tmp_path / "profile.json").read_text())["exporter"] == "pyinstrument"
    assert "receive echo.request" in (tmp_path / "profile.txt").read_text()


def test_when_some_processes_do_not_answer_it_is_that_of_the_others(processes, tmp_path):
    processes.answers[0] = Answer(11, None, "no answer within 20 s")
    done = invoke("echo", "-o", str(tmp_path / "profile.txt"))
    assert (done.exit_code, done.output) == (1, "process 11: no answer within 20 s\n")
    assert "receive echo.request" in (tmp_path / "profile.txt").read_text()


def test_when_none_answers_there_is_none(processes, tmp_path):
    processes.answers.clear()
    done = invoke("echo", "-o", str(tmp_path / "profile.txt"))
    assert done.exit_code == 1
    assert not (tmp_path / "profile.txt").exists()
