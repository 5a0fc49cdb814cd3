"""Lists of who may connect, how they are changed, and how a change is noticed."""

import errno
import itertools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dploylib.errors import SecurityError
from dploylib.security import Identity, authorize, fingerprint, revoke
from dploylib.security.authorized import AuthorizedKeys, Passwords, Roster, identities
from dploylib.security.keys import certificate, name_flaw, read_certificate

ROOT = Path(__file__).parent.parent.parent


def error_of(function, *arguments) -> str:
    with pytest.raises(SecurityError) as caught:
        function(*arguments)
    return str(caught.value)


def put(directory: Path, name: str, key: str, *groups: str) -> Path:
    """Write the file of a client into a directory, in place."""
    path = directory / f"{name}.key"
    path.write_text(certificate(name, groups, key))
    return path


def passwords(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def directory(tmp_path) -> Path:
    path = tmp_path / "authorized"
    path.mkdir()
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "authorized"
    path.touch()
    return path


class Watched:
    """A roster that is looked at as an authenticator does, again and again."""

    def __init__(self, roster: Roster) -> None:
        self.roster = roster
        self.complaints: list[str] = []
        # The clock of a file system has steps of some milliseconds: the next change is to have a time of its own.
        with tempfile.NamedTemporaryFile() as probe:
            made = os.stat(probe.name).st_ctime_ns
            while os.stat(probe.name).st_ctime_ns == made:
                os.utime(probe.name)

    def look(self) -> dict[str, Identity] | None:
        return self.roster.changed(self.complaints.append)

    def settled(self) -> dict[str, Identity] | None:
        """Look until a change would have been found: once to see it, once more to see that it is complete."""
        return [self.look(), self.look()][-1]

    def names(self, *ids: str) -> list[str]:
        return [found.name if (found := self.roster.get(id)) else "" for id in ids]


# What is in a list ---------------------------------------------------------------------------------------------


def test_a_directory_has_a_file_for_each_client(directory, keys):
    put(directory, "alice", keys[0], "admins", "staff")
    put(directory, "bob", keys[1])
    (directory / "README").write_text("not a key")
    (directory / "bob.key_secret").write_text("not looked at")
    (directory / ".hidden.key").write_text("not looked at")
    roster = AuthorizedKeys(str(directory))
    assert len(roster) == 2
    assert roster.get(keys[0]) == Identity("alice", frozenset({"admins", "staff"}), keys[0])
    assert roster.get(keys[1]) == Identity("bob", frozenset(), keys[1])
    assert roster.get(keys[2]) is None


def test_a_file_has_a_line_for_each_client(file, keys):
    file.write_text(f"# who may connect\n\nalice {keys[0]} admins,staff\r\n  bob\t{keys[1]}\n  # carol {keys[2]}\n")
    roster = AuthorizedKeys(str(file))
    assert len(roster) == 2
    assert roster.get(keys[0]) == Identity("alice", frozenset({"admins", "staff"}), keys[0])
    assert roster.get(keys[1]) == Identity("bob", frozenset(), keys[1])


def test_a_line_ends_where_an_editor_ends_it(file, keys):
    file.write_text(f"# a comment\u2028mallory {keys[0]}\n# another\x0bmallory {keys[0]}\n", encoding="utf-8")
    assert len(AuthorizedKeys(str(file))) == 0


def test_a_list_of_passwords_is_known_by_user_names(tmp_path):
    path = passwords(tmp_path / "passwords", "# users\nalice s3cret admins\nbob pässword\n")
    roster = Passwords(str(path))
    assert roster.get("alice") == Identity("alice", frozenset({"admins"}), "s3cret")
    assert roster.get("bob").credential == "pässword"
    assert f"{roster.get('bob').credential}" == "***"
    assert roster.get("s3cret") is None
    assert repr(roster) == f"<Passwords {path}>"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660])
def test_a_list_of_passwords_that_others_can_read_is_refused_until_it_is_mended(tmp_path, mode):
    path = passwords(tmp_path / "pass words", "alice s3cret\n")
    path.chmod(mode)
    error = error_of(Passwords, str(path))
    assert error.startswith(f"others may read the list of passwords in {path} ")
    subprocess.run(["sh", "-c", error.partition("mend it: ")[2]], check=True)
    assert len(Passwords(str(path))) == 1


def test_every_malformed_line_is_named(file, keys):
    file.write_text(
        f"alice\nbob {keys[0][:-1]}\nalice {keys[0]}\n,x {keys[1]}\ncarol {keys[1]} a,#b\n"
        f"dave {keys[1]} a b\neve {keys[0]}\n"
    )
    expected = "expected NAME KEY, or NAME KEY GROUP,GROUP; found"
    no_name = "a name is printable, has no space, comma, quote or slash, and begins with neither # nor a dot"
    assert error_of(AuthorizedKeys, str(file)).splitlines() == [
        f"{file}:1: {expected} 1 word",
        f"{file}:2: what stands behind bob is no key: expected 40 characters of Z85",
        f"{file}:4: {no_name}",
        f"{file}:5: {no_name}",
        f"{file}:6: {expected} 4 words",
        f"{file}:7: eve is there already, as alice",
    ]


def test_a_key_before_its_name_is_not_taken_for_a_name(file):
    file.write_text(f"{'a' * 40} dave\n")
    error = error_of(AuthorizedKeys, str(file))
    assert error.startswith(f"{file}:1: what stands behind the name, which looks like a key itself, is no key: ")
    assert "aaa" not in error


def test_every_malformed_line_of_a_list_of_passwords_is_named_without_any_password(tmp_path):
    path = passwords(
        tmp_path / "passwords",
        "hunter2\nalice hunter2 hun/ter2\nbob hunter2 hunter2 hunter2\n'hunter2' carol\ndave hunter2\ndave hunter2\n",
    )
    error = error_of(Passwords, str(path))
    assert [line.split(":")[1] for line in error.splitlines()] == ["1", "2", "3", "4", "6"]
    assert "hun" not in error


def test_every_broken_file_of_a_directory_is_named(directory, keys):
    put(directory, "alice", keys[0])
    put(directory, "bob", keys[0])
    (directory / "carol.key").touch()
    (directory / "dave.key").symlink_to("nowhere")
    (directory / "eve.key").symlink_to("eve.key")
    assert error_of(AuthorizedKeys, str(directory)).splitlines() == [
        f"{directory}/bob.key: bob is there already, as alice",
        f"{directory}/carol.key has no public key: expected a file that dploylib keygen made (NAME.key)",
        f"cannot read the public key in {directory}/dave.key: No such file or directory",
        f"cannot read the public key in {directory}/eve.key: Too many levels of symbolic links",
    ]


def test_the_file_of_one_key_is_no_list(directory, keys):
    path = put(directory, "alice", keys[0])
    assert error_of(AuthorizedKeys, str(path)) == (
        f"{path} is the file of one key: expected a directory of such files, or a file with lines NAME KEY GROUP,GROUP"
    )


@pytest.mark.parametrize("path", ["", "nowhere", "nowhere/at/all", "no\0where", "\udcff\udcfe"])
def test_a_list_that_is_not_there_is_told(path):
    for roster in (AuthorizedKeys, Passwords):
        assert error_of(roster, path)


def test_a_password_where_its_list_belongs_is_not_shown():
    assert error_of(Passwords, "hunter2") == (
        "expected the path of a file with a list of passwords, and there is none of this name, which is not shown: it "
        "may be the list of passwords itself"
    )


words = st.sampled_from(["alice", "#", "a,b", "0" * 40, "/", "'", " ", "\t", "\n", "\r", "\x85", "\u2028", "é"])


@given(st.lists(words | st.text(max_size=5), max_size=20).map("".join))
def test_any_list_is_read_or_refused_with_places(tmp_path_factory, text):
    path = passwords(tmp_path_factory.getbasetemp() / "any", "")
    path.write_bytes(text.encode(errors="surrogatepass"))
    for read in (AuthorizedKeys, Passwords):
        try:
            roster = read(str(path))
        except SecurityError as error:
            problem = str(error)
        else:
            assert len(roster) <= text.count("\n") + 1
            continue
        assert all(line.startswith(f"{path}:") or str(path) in line for line in problem.split("\n"))


@given(st.data())
def test_who_is_authorized_and_revoked_is_so_in_a_file_of_any_form(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "round-trip"
    old = data.draw(
        st.lists(st.sampled_from(["# x", "", "other " + "1" * 40, "\r", "broken"]), max_size=5).map("\n".join)
    )
    name = data.draw(st.text(min_size=1, max_size=10).filter(lambda text: not name_flaw(text) and text != "other"))
    groups = data.draw(st.sets(st.sampled_from(["a", "b", "c"])))
    path.write_text(old, newline="")
    authorize(str(path), name, "0" * 40, groups)
    assert Identity(name, frozenset(groups), "0" * 40) in [entry for _, entry in identities(str(path))]
    assert [one.name for one in revoke(str(path), name)] == [name]
    assert path.read_bytes().decode() == (old if not old or old.endswith("\n") else f"{old}\n")


# Authorizing and revoking --------------------------------------------------------------------------------------


def test_a_key_is_added_to_a_directory_and_removed(directory, keys):
    place = authorize(str(directory), "alice", keys[0], ["b", "a", "b"])
    assert place == f"{directory}/alice.key"
    assert read_certificate(place) == Identity("alice", frozenset("ab"), keys[0])
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o644
    assert revoke(str(directory), "alice") == [Identity("alice", frozenset("ab"), keys[0])]
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_what_is_not_there_is_made(tmp_path, keys, slash):
    path = f"{tmp_path}/authorized{slash}"
    authorize(path, "alice", keys[0])
    authorize(path, "bob", keys[1])
    assert os.path.isdir(path) == bool(slash)
    assert sorted(entry.name for _, entry in identities(path)) == ["alice", "bob"]


@pytest.mark.parametrize("who", ["name", "key", "fingerprint"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_somebody_is_revoked_by_name_key_or_fingerprint(tmp_path, keys, kind, who):
    path = f"{tmp_path}/authorized{'/' if kind == 'directory' else ''}"
    for name, key in zip(("alice", "bob", "carol"), keys, strict=False):
        authorize(path, name, key)
    handles = {"name": "bob", "key": keys[1], "fingerprint": fingerprint(keys[1])}
    assert revoke(path, handles[who]) == [Identity("bob", frozenset(), keys[1])]
    assert [entry.name for _, entry in identities(path)] == ["alice", "carol"]
    assert error_of(revoke, path, "bob").startswith(f"{path} has no key of bob: expected the name, fingerprint or key")


@pytest.mark.parametrize("slash", ["", "/"])
def test_nobody_is_there_twice(tmp_path, keys, slash):
    path = f"{tmp_path}/authorized{slash}"
    authorize(path, "alice", keys[0])
    place = f"{path}alice.key" if slash else f"{path}:1"
    assert error_of(authorize, path, "alice", keys[1]) == (
        f"alice is authorized in {place} already, with another key; revoke it first"
    )
    assert error_of(authorize, path, "bob", keys[0]) == (
        f"alice is authorized in {place} already, with this key; revoke it first"
    )


@pytest.mark.parametrize(
    ("name", "group"), [(".alice", "a"), ("al/ice", "a"), ("alice", "a,b"), ("", "a"), ("alice", "#a")]
)
@pytest.mark.parametrize("slash", ["", "/"])
def test_what_is_no_name_is_not_added(tmp_path, keys, slash, name, group):
    wrong = f"{name!r} is no name: " if group == "a" else f"{group!r} is no name of a group: "
    assert error_of(authorize, f"{tmp_path}/authorized{slash}", name, keys[0], [group]).startswith(wrong)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_key_is_not_added(tmp_path):
    assert error_of(authorize, f"{tmp_path}/authorized", "alice", "key") == (
        "this is no public key: it has 40 characters of Z85"
    )


def test_a_broken_file_is_not_overwritten(directory, keys):
    (directory / "alice.key").write_text("precious")
    assert error_of(authorize, str(directory), "alice", keys[0]).endswith(
        "alice.key is there already, and is not overwritten"
    )
    assert (directory / "alice.key").read_text() == "precious"


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_comments_permissions_and_line_ends_stay(file, keys, ending, mode):
    before = f"# who\r\n\r\nbob {keys[1]} x,y\r\n  # the end{ending}".encode()
    file.write_bytes(before)
    file.chmod(mode)
    authorize(str(file), "alice", keys[0], ["b", "a"])
    ended = before if ending else before + b"\n"
    assert file.read_bytes() == ended + f"alice {keys[0]} a,b\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == mode
    revoke(str(file), "bob")
    assert (
        file.read_bytes() == ended.replace(f"bob {keys[1]} x,y\r\n".encode(), b"") + f"alice {keys[0]} a,b\n".encode()
    )
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert os.listdir(file.parent) == ["authorized"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_the_owner_of_a_list_stays(file, keys):
    os.chown(file, 65534, 65534)
    authorize(str(file), "alice", keys[0])
    assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65534)


def test_a_list_behind_a_link_is_changed_where_it_is(file, keys):
    link = file.parent / "link"
    link.symlink_to("authorized")
    authorize(str(link), "alice", keys[0])
    assert link.is_symlink()
    assert file.read_text() == f"alice {keys[0]}\n"
    revoke(str(link), "alice")
    assert link.is_symlink()
    assert file.read_text() == ""


def test_a_list_is_replaced_and_never_written_to(file, keys):
    authorize(str(file), "alice", keys[0])
    with file.open() as before:
        authorize(str(file), "bob", keys[1])
        revoke(str(file), "alice")
        assert before.read() == f"alice {keys[0]}\n"
    assert file.read_text() == f"bob {keys[1]}\n"


def test_a_list_stays_as_it_was_when_there_is_no_room(file, keys, monkeypatch):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file.write_text(f"alice {keys[0]}\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for change in (lambda: authorize(str(file), "bob", keys[1]), lambda: revoke(str(file), "alice")):
            assert error_of(change) == f"cannot write {file}: No space left on device"
    assert file.read_text() == f"alice {keys[0]}\n"
    assert os.listdir(file.parent) == ["authorized"]


def test_where_nothing_may_be_written_nothing_is(bounded, keys):
    authorize(f"{bounded}/keys/", "alice", keys[0])
    authorize(f"{bounded}/keys/list", "alice", keys[0])
    os.chmod(bounded / "keys", 0o500)
    assert (
        error_of(authorize, f"{bounded}/keys", "bob", keys[1])
        == f"cannot write {bounded}/keys/bob.key: Permission denied"
    )
    assert (
        error_of(authorize, f"{bounded}/keys/list", "bob", keys[1])
        == f"cannot write {bounded}/keys/list: Permission denied"
    )
    assert error_of(revoke, f"{bounded}/keys", "alice") == f"cannot remove {bounded}/keys/alice.key: Permission denied"
    assert (
        error_of(authorize, f"{bounded}/keys/more/", "bob", keys[1])
        == f"cannot make {bounded}/keys/more/: Permission denied"
    )
    assert sorted(os.listdir(bounded / "keys")) == ["alice.key", "list"]


def test_many_processes_that_authorize_at_once_lose_nobody(file):
    script = """
import sys
from dploylib.security import KeyPair, authorize, revoke
where, me = sys.argv[1:]
sys.stdin.read()
for number in range(10):
    authorize(where, f"{me}-{number}", KeyPair.generate().public)
    authorize(where, f"{me}-gone", KeyPair.generate().public)
    revoke(where, f"{me}-gone")
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(file), f"p{number}"],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in range(4)
    ]
    for process in processes:
        process.stdin.close()
    assert [process.wait() for process in processes] == [0] * 4
    names = sorted(entry.name for _, entry in identities(str(file)))
    assert names == sorted(f"p{process}-{number}" for process in range(4) for number in range(10))


# Changes -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "file"])
def kept(request, tmp_path, keys) -> tuple[Watched, Callable[..., None]]:
    """A roster with alice, kept either way, and a function that writes it anew, in place: names and their keys."""
    path = tmp_path / "authorized"
    if request.param == "directory":
        path.mkdir()

    def write(**clients: str) -> None:
        if request.param == "file":
            path.write_text("".join(f"{name} {key}\n" for name, key in clients.items()))
            return
        for file in path.iterdir():
            if file.stem not in clients:
                file.unlink()
        for name, key in clients.items():
            put(path, name, key)

    write(alice=keys[0])
    return Watched(AuthorizedKeys(str(path))), write


def test_what_is_as_it_was_is_no_change(kept):
    watched, _ = kept
    assert [watched.look() for _ in range(3)] == [None] * 3


def test_additions_and_removals_are_found(kept, keys):
    watched, write = kept
    write(alice=keys[0], bob=keys[1])
    assert watched.settled() == {keys[0]: Identity("alice", frozenset(), keys[0])}
    assert watched.names(keys[0], keys[1]) == ["alice", "bob"]
    write(bob=keys[1])
    assert set(watched.settled()) == {keys[0], keys[1]}
    assert watched.names(keys[0], keys[1]) == ["", "bob"]
    assert watched.look() is None
    assert watched.complaints == []


def test_another_key_of_the_same_length_is_found(kept, keys):
    watched, write = kept
    write(alice=keys[1])
    assert watched.settled() is not None
    assert watched.names(keys[0], keys[1]) == ["", "alice"]


def test_what_is_written_again_as_it_was_is_no_change(kept, keys):
    watched, write = kept
    write(alice=keys[0])
    assert watched.settled() is None


def test_a_change_that_keeps_size_and_time_is_found(file, keys):
    file.write_text(f"alice {keys[0]}\n")
    os.utime(file, ns=(10**18, 10**18))
    watched = Watched(AuthorizedKeys(str(file)))
    file.write_text(f"alice {keys[1]}\n")
    os.utime(file, ns=(10**18, 10**18))
    assert watched.settled() is not None
    assert watched.names(keys[1]) == ["alice"]


def test_a_file_that_is_replaced_is_found(file, keys):
    file.write_text(f"alice {keys[0]}\n")
    watched = Watched(AuthorizedKeys(str(file)))
    new = file.with_name("new")
    new.write_text(f"alice {keys[1]}\n")
    new.replace(file)
    assert watched.settled() is not None
    assert watched.names(keys[0], keys[1]) == ["", "alice"]


def test_what_is_being_written_is_left_alone(file, keys):
    file.write_text(f"alice {keys[0]}\n")
    watched = Watched(AuthorizedKeys(str(file)))
    text = f"alice {keys[0]}\nbob {keys[1]}\n"
    for end in range(1, len(text)):
        file.write_text(text[:end])  # each is another size than before
        assert watched.look() is None
    assert (watched.complaints, watched.names(keys[0])) == ([], ["alice"])
    file.write_text(text)
    watched.settled()
    assert (watched.complaints, watched.names(keys[0], keys[1])) == ([], ["alice", "bob"])


def test_who_cannot_be_read_any_more_is_not_let_in_and_others_stay(directory, keys):
    put(directory, "alice", keys[0])
    bob = put(directory, "bob", keys[1])
    watched = Watched(AuthorizedKeys(str(directory)))
    bob.write_text("curve\n")
    assert set(watched.settled()) == {keys[0], keys[1]}
    assert watched.names(keys[0], keys[1]) == ["alice", ""]
    assert watched.complaints == [f"{bob} has no public key: expected a file that dploylib keygen made (NAME.key)"]
    assert watched.settled() is None
    assert len(watched.complaints) == 1  # it is told once
    put(directory, "bob", keys[1])
    assert set(watched.settled()) == {keys[0]}
    assert watched.names(keys[1]) == ["bob"]


def test_a_malformed_line_lets_its_client_not_in_and_others_stay(file, keys):
    file.write_text(f"alice {keys[0]}\nbob {keys[1]}\n")
    watched = Watched(AuthorizedKeys(str(file)))
    file.write_text(f"alice {keys[0]}\nbob {keys[1][:-1]}\ncarol {keys[2]}\n")
    assert watched.settled() is not None
    assert watched.names(keys[0], keys[1], keys[2]) == ["alice", "", "carol"]
    assert watched.complaints == [f"{file}:2: what stands behind bob is no key: expected 40 characters of Z85"]


def test_a_list_that_is_gone_lets_nobody_in_until_it_is_back(kept, keys, tmp_path):
    watched, _ = kept
    (tmp_path / "authorized").rename(tmp_path / "elsewhere")
    assert set(watched.settled()) == {keys[0]}
    assert watched.names(keys[0]) == [""]
    (complaint,) = watched.complaints
    assert complaint == f"cannot read the authorized keys in {tmp_path}/authorized: No such file or directory"
    (tmp_path / "elsewhere").rename(tmp_path / "authorized")
    assert watched.settled() == {}
    assert watched.names(keys[0]) == ["alice"]


def test_a_list_whose_directory_became_a_file_is_gone(tmp_path, keys):
    (tmp_path / "deep").mkdir()
    authorize(f"{tmp_path}/deep/authorized", "alice", keys[0])
    watched = Watched(AuthorizedKeys(f"{tmp_path}/deep/authorized"))
    shutil.rmtree(tmp_path / "deep")
    (tmp_path / "deep").touch()
    assert watched.settled() is not None
    assert watched.names(keys[0]) == [""]


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("where", ["itself", "above"])
def test_what_may_not_be_read_any_more_changes_nothing(bounded, keys, slash, where):
    path = f"{bounded}/above/authorized{slash}"
    (bounded / "above").mkdir()
    authorize(path, "alice", keys[0])
    watched = Watched(AuthorizedKeys(path))
    closed = path.rstrip("/") if where == "itself" else f"{bounded}/above"
    os.chmod(closed, 0)
    assert watched.settled() is None
    assert watched.names(keys[0]) == ["alice"]
    assert watched.complaints == [f"cannot read the authorized keys in {path}: Permission denied"]
    assert watched.settled() is None
    assert len(watched.complaints) == 1
    os.chmod(closed, 0o700)
    authorize(path, "bob", keys[1])
    assert watched.settled() is not None
    assert watched.names(keys[0], keys[1]) == ["alice", "bob"]


def test_a_file_of_a_directory_that_may_not_be_read_lets_its_client_not_in(bounded, keys):
    for name, key in (("alice", keys[0]), ("bob", keys[1])):
        authorize(f"{bounded}/authorized/", name, key)
    watched = Watched(AuthorizedKeys(f"{bounded}/authorized"))
    os.chmod(bounded / "authorized" / "bob.key", 0)
    watched.settled()
    assert watched.names(keys[0], keys[1]) == ["alice", ""]
    assert watched.complaints == [f"cannot read the public key in {bounded}/authorized/bob.key: Permission denied"]
    os.chmod(bounded / "authorized" / "bob.key", 0o644)
    watched.settled()
    assert watched.names(keys[0], keys[1]) == ["alice", "bob"]


@pytest.mark.parametrize("reason", ["a loop of links", "no text", "a fifo"])
def test_a_list_that_is_something_else_now_changes_nothing(file, keys, reason):
    file.write_text(f"alice {keys[0]}\n")
    watched = Watched(AuthorizedKeys(str(file)))
    file.unlink()
    if reason == "a loop of links":
        file.symlink_to(file)
    elif reason == "no text":
        file.write_bytes(b"\xff")
    else:
        os.mkfifo(file)
    assert watched.settled() is None
    assert watched.names(keys[0]) == ["alice"]
    assert len(watched.complaints) == 1


def test_a_list_of_passwords_that_others_can_read_now_changes_nothing(tmp_path):
    path = passwords(tmp_path / "passwords", "alice s3cret\n")
    watched = Watched(Passwords(str(path)))
    passwords(path, "alice another\n").chmod(0o644)
    assert watched.settled() is None
    assert watched.roster.get("alice").credential == "s3cret"
    assert watched.complaints[0].startswith(f"others may read the list of passwords in {path} ")
    path.chmod(0o600)
    assert watched.settled()["alice"].credential == "s3cret"
    assert watched.roster.get("alice").credential == "another"


@pytest.mark.parametrize("kind", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_shortage_changes_nothing_and_passes(kept, keys, monkeypatch, kind):
    watched, write = kept
    write(alice=keys[0], bob=keys[1])

    def short(*_: object) -> int:
        raise OSError(kind, os.strerror(kind))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        assert watched.settled() is None
    assert watched.names(keys[0], keys[1]) == ["alice", ""]
    assert os.strerror(kind) in watched.complaints[0]
    assert watched.look() is not None  # without another change
    assert watched.names(keys[0], keys[1]) == ["alice", "bob"]


# As Kubernetes mounts them: links to ..data/NAME, where ..data is a link to a directory that is replaced.


def mount(directory: Path, version: str, **clients: str) -> None:
    data = directory / f"..{version}"
    data.mkdir()
    for name, key in clients.items():
        put(data, name, key)
    (directory / "..data_tmp").symlink_to(data.name)
    (directory / "..data_tmp").replace(directory / "..data")
    for name in clients:
        link = directory / f"{name}.key"
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}.key")
    for link in directory.glob("[!.]*.key"):
        if link.stem not in clients:
            link.unlink()


def test_keys_that_are_mounted_as_links_are_read_and_changes_are_found(directory, keys):
    mount(directory, "2026_01", alice=keys[0], bob=keys[1])
    watched = Watched(AuthorizedKeys(str(directory)))
    assert (len(watched.roster), watched.names(keys[0], keys[1])) == (2, ["alice", "bob"])
    mount(directory, "2026_02", alice=keys[2], carol=keys[3])
    shutil.rmtree(directory / "..2026_01")
    assert watched.settled() is not None
    assert (len(watched.roster), watched.names(*keys)) == (2, ["", "", "alice", "carol"])
    assert watched.complaints == []


@given(st.lists(st.sampled_from(["write", "replace", "remove", "break", "look"]), max_size=12))
def test_whatever_is_done_to_a_list_it_is_right_in_the_end(tmp_path_factory, steps):
    path = tmp_path_factory.getbasetemp() / "random"
    path.write_text("")
    watched = Watched(AuthorizedKeys(str(path)))
    counter = itertools.count()
    for step in steps:
        # Never the same size twice, for times may be the same.
        text = "#" * 10 * next(counter) + "\n" + f"{step} {'0' * 40}\n"
        if step == "look":
            watched.look()
        elif step == "remove":
            path.unlink(missing_ok=True)
        elif step == "replace":
            path.with_name("random-new").write_text(text)
            path.with_name("random-new").replace(path)
        else:
            path.write_text(text if step == "write" else text[:-5])
    watched.settled()
    now = [entry for _, entry in identities(str(path)) if isinstance(entry, Identity)] if path.exists() else []
    assert len(watched.roster) == len(now)
    assert all(watched.roster.get(entry.credential) == entry for entry in now)


def test_a_list_that_never_stays_as_it_is_does_not_keep_anybody_in(directory, keys):
    put(directory, "alice", keys[0])
    roster = AuthorizedKeys(str(directory))
    (directory / "alice.key").unlink()
    looks = 0
    while roster.get(keys[0]) is not None:
        put(directory, f"client{looks}", keys[1])  # by which the directory is another one each time
        (directory / f"client{looks - 1}.key").unlink(missing_ok=True)
        roster.changed(lambda problem: pytest.fail(problem))
        looks += 1
        assert looks < 100
    assert roster.get(keys[1]).name == f"client{looks - 1}"
