"""Keys and the files that they are kept in."""

import contextlib
import copy
import os
import pickle
import shutil
import stat
import subprocess
import traceback
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.auth import create_certificates, load_certificate
from zmq.utils import z85

from dploylib.errors import SecurityError
from dploylib.security import Identity, KeyPair, fingerprint, read_certificate, write_key_pair
from dploylib.security.files import looks_like_key
from dploylib.security.keys import certificate, has_secret_key, is_key, name_flaw, public_key_of


def permissions(path: str | os.PathLike[str]) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def error_of(function, *arguments) -> str:
    with pytest.raises(SecurityError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.fixture
def pair() -> KeyPair:
    return KeyPair.generate()


@pytest.fixture
def files(tmp_path, pair) -> tuple[Path, Path]:
    """The paths of `pair`, called alice."""
    public, secret = write_key_pair(tmp_path / "alice", pair)
    return Path(public), Path(secret)


def test_a_public_key_can_stand_in_a_configuration_as_it_is(monkeypatch):
    pairs = [zmq.curve_keypair() for _ in range(2)]
    placeholder = (b"${NAME}" + pairs[0][0][7:], pairs[0][1])
    made = iter([placeholder, pairs[1]])
    monkeypatch.setattr(zmq, "curve_keypair", lambda: next(made))
    assert KeyPair.generate().public == pairs[1][0].decode()


# Files ---------------------------------------------------------------------------------------------------------


def test_a_pair_is_read_as_it_was_written(files, pair):
    public, secret = files
    assert (public.name, secret.name) == ("alice.key", "alice.key_secret")
    read = KeyPair.read(secret)
    assert (read.public, read.secret) == (pair.public, pair.secret)
    assert read_certificate(public) == read_certificate(secret) == Identity("alice", frozenset(), pair.public)
    assert (has_secret_key(public), has_secret_key(secret)) == (False, True)


def test_pyzmq_reads_what_is_written_here(files, pair):
    public, secret = files
    assert load_certificate(public) == (pair.public.encode(), None)
    assert load_certificate(secret) == (pair.public.encode(), pair.secret)


def test_what_pyzmq_writes_is_read_here(tmp_path):
    public, secret = create_certificates(tmp_path, "bob", {"name": "bob-of-pyzmq", "groups": "a,b", "email": "b@x.org"})
    os.chmod(secret, 0o600)
    key = load_certificate(public)[0].decode()
    assert read_certificate(public) == Identity(
        "bob", frozenset(), key
    )  # pyzmq writes metadata to the secret file only
    assert read_certificate(secret) == Identity("bob-of-pyzmq", frozenset({"a", "b"}), key)
    read = KeyPair.read(secret)
    assert (read.public.encode(), read.secret) == load_certificate(secret)


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_permissions_are_the_same_under_any_umask(tmp_path, pair, umask, mask):
    umask(mask)
    public, secret = write_key_pair(tmp_path / "alice", pair)
    assert (permissions(public), permissions(secret)) == (0o644, 0o600)


def test_a_secret_file_is_for_nobody_else_from_its_creation_on(tmp_path, pair, umask, monkeypatch):
    umask(0)
    created = []
    monkeypatch.setattr(os, "fchmod", lambda file, _: created.append(stat.S_IMODE(os.fstat(file).st_mode)))
    write_key_pair(tmp_path / "alice", pair)
    assert created[0] == 0o600


@pytest.mark.parametrize("there", ["alice.key", "alice.key_secret", "both"])
def test_nothing_is_overwritten(tmp_path, pair, there):
    for name in ("alice.key", "alice.key_secret"):
        if there in (name, "both"):
            (tmp_path / name).write_text("precious")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert "is there already, and is not overwritten" in error_of(write_key_pair, tmp_path / "alice", pair)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path, pair):
    (tmp_path / "alice.key_secret").symlink_to(tmp_path / "elsewhere")
    assert "is there already" in error_of(write_key_pair, tmp_path / "alice", pair)
    assert [path.name for path in tmp_path.iterdir()] == ["alice.key_secret"]


def test_a_directory_that_is_not_there_is_told(tmp_path, pair):
    assert error_of(write_key_pair, tmp_path / "no" / "alice", pair) == (
        f"cannot write {tmp_path}/no/alice.key_secret: there is no directory {tmp_path}/no; make it first"
    )


def test_a_file_that_cannot_be_written_to_its_end_is_removed(tmp_path, pair, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert error_of(write_key_pair, tmp_path / "alice", pair) == (
        f"cannot write {tmp_path}/alice.key_secret: No space left on device"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".alice", "#alice", "al ice", 'al"ice', "al,ice", "al\nice", "al\u202eice", "\udcff"]
)
def test_a_pair_gets_no_name_that_cannot_be_read_again(tmp_path, pair, name):
    assert "is no name: a name is printable" in error_of(write_key_pair, f"{tmp_path}/{name}", pair)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777])
@pytest.mark.parametrize("name", ["alice", "-x", "a'b", "$(touch oops)", "a b;c"])
def test_a_secret_that_others_can_read_is_refused_until_the_command_in_the_error_has_run(
    tmp_path, pair, monkeypatch, mode, name
):
    monkeypatch.chdir(tmp_path)
    path = f"{name}.key_secret"
    Path(path).write_text(certificate("alice", (), pair.public, pair.secret.decode()))
    os.chmod(path, mode)
    error = error_of(KeyPair.read, path)
    assert f"(its permissions are {mode:04o})" in error
    subprocess.run(["sh", "-c", error.partition("mend it: ")[2]], check=True)
    assert permissions(path) == 0o600
    assert KeyPair.read(path).secret == pair.secret
    assert os.listdir() == [path]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_secret_that_only_its_owner_can_read_is_taken(files, pair, mode):
    os.chmod(files[1], mode)
    assert KeyPair.read(files[1]).public == pair.public


def test_a_file_that_may_not_be_read_is_named(bounded, pair):
    _, secret = write_key_pair(bounded / "alice", pair)
    os.chmod(secret, 0)
    assert error_of(KeyPair.read, secret) == f"cannot read the secret key in {secret}: Permission denied"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no public key: expected a file that dploylib keygen made (NAME.key)"),
        (b'curve\n    public-key = "too short"\n', "has no public key"),
        (b"\xff\xfe", "it is no text in UTF-8"),
        (b"x" * (2**24 + 1), "it is larger than 16 MiB"),
    ],
)
def test_a_file_without_a_key_is_told(tmp_path, content, complaint):
    path = tmp_path / "alice.key"
    path.write_bytes(content)
    error = error_of(read_certificate, path)
    assert str(path) in error
    assert complaint in error


def test_a_file_with_two_keys_is_refused(files):
    public, _ = files
    public.write_text(public.read_text() * 2)
    assert error_of(read_certificate, public) == f"{public} has name more than once: expected a file with one key"


def test_a_public_file_where_a_secret_one_belongs_is_not_to_be_hidden_but_replaced(files):
    public, secret = files
    assert error_of(KeyPair.read, public) == f"{public} has the public key alone: the file with both is meant, {secret}"


def test_a_secret_file_without_its_secret_is_told(files):
    public, secret = files
    shutil.copy(public, secret)
    secret.chmod(0o600)
    assert error_of(KeyPair.read, secret).startswith(f"{secret} has no secret key: expected a file that ")


def test_keys_that_do_not_belong_together_are_told(files, keys):
    _, secret = files
    text = secret.read_text()
    secret.write_text(text.replace(read_certificate(secret).credential, keys[0]))
    assert error_of(KeyPair.read, secret) == f"the public key in {secret} does not belong to the secret key in it"


def open_below(directory: Path) -> list[str]:
    """The files of a directory that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [path for path in found if path.startswith(f"{directory}/")]


def test_what_is_no_file_is_not_waited_for(tmp_path, wait_until):
    os.mkfifo(tmp_path / "fifo.key")
    (tmp_path / "directory.key").mkdir()
    assert error_of(read_certificate, tmp_path / "fifo.key").endswith("fifo.key: it is no regular file")
    assert error_of(read_certificate, tmp_path / "directory.key").endswith("directory.key: it is a directory")
    wait_until(lambda: not open_below(tmp_path))  # where gevent has patched os.close, it closes later


def test_a_name_that_cannot_be_one_is_told_with_its_file(files):
    public, _ = files
    public.write_text(public.read_text().replace('"alice"', '"Alice Smith"'))
    assert error_of(read_certificate, public).startswith(f"{public}: 'Alice Smith' is no name: ")


def test_a_public_key_is_given_itself_or_by_its_file(files, pair):
    assert public_key_of(pair.public) == public_key_of(os.fspath(files[0])) == pair.public


def test_what_is_neither_a_key_nor_a_file_is_told_what_it_may_be(pair):
    for written in ("abc", pair.public[:-1]):
        error = error_of(public_key_of, written)
        assert error.startswith("expected a public key (40 characters of Z85) or the file that it is in (NAME.key); ")
        assert f"this has {len(written)} characters" in error
    assert error_of(public_key_of, "keys/abc") == "cannot read the public key in keys/abc: No such file or directory"


def test_the_path_of_a_file_that_is_missing_is_not_taken_for_a_key():
    path = "/etc/dploylib/public/keys/production.key"
    assert is_key(path)  # as it happens: 40 characters, all of Z85
    assert error_of(public_key_of, path) == f"cannot read the public key in {path}: No such file or directory"


# Keys ----------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_the_one_that_openssl_would_make_of_the_raw_key():
    # echo -n ... | openssl dgst -sha256 -binary | base64, of 32 zero bytes
    assert fingerprint("0" * 40) == "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"


def test_there_is_no_fingerprint_of_what_is_no_key():
    with pytest.raises(ValueError, match="this is no key of CURVE"):
        fingerprint("x")


@given(st.binary(min_size=32, max_size=32))
def test_every_key_is_one(raw):
    text = z85.encode(raw).decode()
    assert is_key(text)
    assert not is_key(text[:-1])
    assert not is_key(text + "0")


@given(st.text(max_size=41))
def test_only_what_z85_makes_is_a_key(text):
    assert not is_key(text) or z85.encode(z85.decode(text)).decode() == text


@pytest.mark.parametrize("text", ["#" * 40, "%nSc1" * 8, " " * 40, "é" * 40, "\x00" * 40])
def test_what_is_as_long_as_a_key_is_not_one_yet(text):
    assert not is_key(text)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.lists(st.text(min_size=1, max_size=10), max_size=3),
)
def test_a_certificate_is_refused_or_is_read_as_it_was_written(tmp_path_factory, name, groups):
    path = tmp_path_factory.getbasetemp() / "certificate.key"
    key = "0" * 40
    try:
        text = certificate(name, groups, key)
    except SecurityError:
        assert any(map(name_flaw, (name, *groups)))
        return
    path.write_text(text, encoding="utf-8")
    assert read_certificate(path) == Identity(name, frozenset(groups), key)


@given(
    st.binary(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                b"curve",
                b"\n",
                b"    ",
                b"public-key",
                b" = ",
                b'"',
                b"'",
                b"0" * 40,
                b"#",
                b"name",
                b"groups",
                b"\xff",
                b"\r",
            ]
        )
    ).map(b"".join)
)
def test_reading_a_file_raises_nothing_but_a_security_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.key"
    path.write_bytes(content)
    path.chmod(0o600)
    for read in (read_certificate, KeyPair.read, has_secret_key):
        with contextlib.suppress(SecurityError):
            read(path)


@given(st.text(max_size=50))
def test_any_text_in_place_of_a_path_raises_nothing_but_a_security_error(text):
    for read in (read_certificate, KeyPair.read):
        with pytest.raises(SecurityError):
            read(f"no such directory/{text}\0")
        with pytest.raises(SecurityError):
            read(f"/proc/self/no such directory/{text}")


# Secrets -------------------------------------------------------------------------------------------------------


def test_a_pair_shows_its_public_key_only(pair):
    assert repr(pair) == str(pair) == f"{pair}" == f"<KeyPair {fingerprint(pair.public)}>"
    assert repr(pair.secret) == str(pair.secret) == f"{pair.secret}" == "%s" % pair.secret == "***"  # noqa: UP031
    assert zmq.curve_public(pair.secret).decode() == pair.public


@pytest.mark.parametrize("leave", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_pair_does_not_leave_its_process(pair, leave):
    with pytest.raises(TypeError, match="a secret key stays in its process"):
        leave(pair)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_where_a_path_belongs_is_not_shown(raw):
    key = z85.encode(raw).decode()
    for written in (key, f" {key}", f"{key}\n", f"'{key}'", key[:-1], key + "x"):
        if any(map(str.isupper, written)):  # 1 in 2 million has no capital
            assert looks_like_key(written)
            error = error_of(KeyPair.read, written)
            assert key[:20] not in error
            assert "expected the path of a file with a secret key, and there is none of this name" in error


@pytest.mark.parametrize("path", ["client.key_secret", "/etc/dploylib/public/keys/production.key", "A" * 45, ""])
def test_a_path_is_shown(path):
    assert not looks_like_key(path)
    assert error_of(read_certificate, path) == f"cannot read the public key in {path}: No such file or directory"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, secret: data.replace(b"public-key = ", b"public-key = #"),
        lambda data, secret: data + b'    secret-key = "' + secret + b'"\n',
        lambda data, secret: data + b"\xff",
        lambda data, secret: data.replace(secret, secret[:-1]),
    ],
)
def test_no_variable_of_who_raises_an_error_shows_a_secret(pair, tmp_path, spoil):
    """Some tools print them: pytest with --showlocals, and those that report errors to somebody."""
    path = Path(write_key_pair(tmp_path / "it", pair)[1])
    secret = pair.secret.decode()
    path.write_bytes(spoil(path.read_bytes(), secret.encode()))
    with pytest.raises(SecurityError) as caught:
        KeyPair.read(path)
    inside = caught.tb.tb_next  # without this test
    told = traceback.TracebackException(SecurityError, caught.value, inside, capture_locals=True)
    assert "fields" in (text := "".join(told.format())) or "data" in text
    assert secret[:-1] not in text
