"""The parts of examples/dploy by themselves: archives, process tables, processes."""

import io
import os
import signal
import subprocess
import sys
import tarfile

import gevent
import pytest

from examples.dploy.files import Unusable, checked_name, pack, pack_app, read_processes, unpack
from examples.dploy.processes import AppProcess, born, find_marked, kill_strays
from tests.dploy.conftest import SAMPLE, all_in_one, command

# Archives ------------------------------------------------------------------------------------------------------------


def member(name, kind=tarfile.REGTYPE, link=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


@pytest.mark.parametrize(
    "entry",
    [
        member("../outside"),
        member("inside", tarfile.SYMTYPE, "/etc/passwd"),
        member("inside", tarfile.SYMTYPE, "../../outside"),
        member("inside", tarfile.LNKTYPE, "../outside"),
        member("inside", tarfile.CHRTYPE),
    ],
    ids=["outside", "link to a path", "link outside", "hard link outside", "device"],
)
def test_an_archive_that_would_escape_is_not_unpacked_at_all(tmp_path, entry):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        tar.addfile(member("good"), io.BytesIO())
        tar.addfile(entry)
    with pytest.raises(Unusable, match=r"bad\.tar\.gz cannot be unpacked"):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "apps" / "one")
    assert list((tmp_path / "apps").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_half_an_archive_is_not_unpacked_at_all(tmp_path):
    pack(SAMPLE, tmp_path / "whole.tar.gz")
    (tmp_path / "half.tar.gz").write_bytes((tmp_path / "whole.tar.gz").read_bytes()[:200])
    with pytest.raises(Unusable, match="cannot be unpacked"):
        unpack(tmp_path / "half.tar.gz", tmp_path / "apps" / "one")
    assert list((tmp_path / "apps").iterdir()) == []


def test_an_archive_that_cannot_be_written_leaves_nothing(tmp_path):
    def choose(entry):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        pack(SAMPLE, tmp_path / "app.tar.gz", choose)
    assert list(tmp_path.iterdir()) == []


def test_equal_files_are_the_same_commit_and_others_are_not(tmp_path, app):
    directory = app("web: one")
    first, commit = pack_app(directory, tmp_path / "archives")
    os.utime(directory / "web.py", (1, 1))
    (directory / "__pycache__").mkdir()
    assert pack_app(directory, tmp_path / "archives") == (first, commit)
    app("web: two")
    assert pack_app(directory, tmp_path / "archives")[1] != commit
    unpack(first, tmp_path / "unpacked")
    assert sorted(path.name for path in (tmp_path / "unpacked").iterdir()) == ["Procfile", "clock.py", "web.py"]


def test_a_clean_git_checkout_is_its_commit_until_it_is_changed(tmp_path, app):
    directory = app("web: one")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", directory]
    for step in (["init", "-q"], ["add", "."], ["commit", "-qm", "all of it"]):
        subprocess.run([*git, *step], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert pack_app(directory, tmp_path / "archives")[1] == head
    app("web: two")
    assert pack_app(directory, tmp_path / "archives")[1] != head


@pytest.mark.parametrize("name", ["", "Shop", "-shop", "a/b", "..", "shop\n", "é", "a" * 41])
def test_what_cannot_be_the_name_of_a_file_is_no_name(name):
    with pytest.raises(Unusable, match="is no name"):
        checked_name(name)
    assert checked_name("shop-2") == "shop-2"


@pytest.mark.parametrize(
    ("procfile", "error"),
    [
        ("", "the Procfile has no process"),
        ("# nothing\n\nweb\n", "Procfile:3: expected NAME: COMMAND, found 'web'"),
        ("web:\n", "Procfile:1: expected NAME: COMMAND, found 'web:'"),
        ("../web: python\n", "'../web' is no name"),
    ],
)
def test_a_process_table_that_is_none_is_refused_with_its_place(app, procfile, error):
    with pytest.raises(Unusable, match=f"^{error}"):
        read_processes(app(procfile))


# All of it -----------------------------------------------------------------------------------------------------------


def test_what_is_stopped_leaves_nothing_and_runs_again_when_it_is_started(leak_check, home):
    with all_in_one():
        status, said = command("push", SAMPLE)
        assert status == 0, said
    assert not find_marked(str(home / "zone"))
    with all_in_one() as service:
        [app] = service.servers["zone"].tell_apps(None, None)
        assert app["url"] in said
        assert [process["name"] for process in app["processes"]] == ["web", "clock"]


# Processes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeper():
    """`sleeper(NAME="value")`: a process that does nothing, with this environment."""
    started = []

    def start(**env):
        started.append(subprocess.Popen(["sleep", "600"], env=env, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_only_what_is_left_behind_is_killed_and_not_who_has_its_id_now(sleeper):
    left, unnoticed, other, of_somebody = sleeper(), sleeper(DPLOY_OWNER="us"), sleeper(), sleeper(DPLOY_OWNER="usual")
    known = [(left.pid, born(left.pid)), (other.pid, born(other.pid) + "0")]
    reaping = [gevent.spawn(process.wait) for process in (left, unnoticed)]
    assert kill_strays("us", known) == {left.pid, unnoticed.pid}
    assert [greenlet.get(timeout=10) for greenlet in reaping] == [-signal.SIGKILL] * 2
    assert (other.poll(), of_somebody.poll()) == (None, None)


@pytest.fixture
def run(tmp_path):
    """`run(command)`: such a process of an app, which says `lines` and has the ids `pids`."""
    running = []

    def start(command):
        lines, pids = [], []
        process = AppProcess(command, tmp_path, {}, str(tmp_path), pids.append, lambda pid: None, lines.append)
        process.lines, process.pids = lines, pids
        running.append(process)
        return process

    yield start
    for process in running:
        process.stop(0)
    assert not find_marked(str(tmp_path))


def test_a_process_that_ends_is_started_again_until_it_is_stopped(run, wait_until):
    process = run("echo here; exit 3")
    wait_until(lambda: process.lines.count("here") == 2)
    process.stop(5)
    assert process.lines[:3] == ["here", "[ended with status 3]", "here"]
    assert process.pid is None
    assert len(set(process.pids)) == process.starts


def test_what_a_shell_has_started_may_take_its_time_to_stop(run, wait_until):
    process = run('(trap "sleep 0.1; echo bye; exit" TERM; echo begun; while :; do sleep 0.02; done); true')
    wait_until(lambda: process.lines == ["begun"])
    process.stop(10)
    assert process.lines[-2:] == ["bye", "[was ended by SIGTERM]"]


def test_all_that_a_process_has_started_ends_with_it(run, wait_until, tmp_path):
    stubborn = f"{sys.executable} -c 'import os, signal; signal.signal(15, 1); os.write(1, b\"1\\n\"); signal.pause()'"
    process = run(f"{stubborn} & {stubborn}; wait")
    wait_until(lambda: process.lines == ["1", "1"])
    assert len(find_marked(str(tmp_path))) == 3
    process.stop(0.1)
    assert not find_marked(str(tmp_path))


def test_what_a_process_has_left_in_the_background_does_not_outlive_it(run, wait_until):
    process = run("sleep 600 & echo $!")
    wait_until(lambda: "[ended with status 0]" in process.lines)
    wait_until(lambda: not born(int(process.lines[0])))


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path, wait_until):
    lines = []
    missing = tmp_path / "missing"
    process = AppProcess("true", missing, {}, str(tmp_path), int, int, lines.append)
    wait_until(lambda: lines)
    assert "No such file or directory" in lines[0]
    missing.mkdir()
    wait_until(lambda: process.starts)
    process.stop(5)
