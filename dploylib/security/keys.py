"""Keys of CURVE, and the files that they are kept in.

The files are those of CZMQ and pyzmq: `NAME.key` has the public key, `NAME.key_secret` both. A key is written as 40
characters of Z85 (ZeroMQ RFC 32). Public keys are for everybody to see; in errors and logs they are told apart by their
fingerprints, which are made as OpenSSH makes them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..errors import SecurityError

__all__ = [
    "PUBLIC_SUFFIX",
    "SECRET_SUFFIX",
    "Identity",
    "KeyPair",
    "fingerprint",
    "is_key",
    "name_flaw",
    "public_key_of",
    "read_certificate",
    "read_private",
    "write_certificate",
    "write_key_pair",
]

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"

_KEY_LENGTH = 40
_LARGEST = 65536  # bytes of a certificate; it has some hundred
_NAME = re.compile(r"[^\s,#\"'/\x00-\x1f\x7f-\x9f][^\s,\"'/\x00-\x1f\x7f-\x9f]*")
# A field of ZPL (ZeroMQ RFC 4), as much as is needed.
_FIELD = re.compile(r"\s+([\w-]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|(\S.*))")


class Identity(NamedTuple):
    """Who may connect: a name, the groups it is in, and its public key, or its password."""

    name: str
    groups: frozenset[str]
    credential: str

    def __repr__(self) -> str:
        return f"<Identity {self.name}>"


class KeyPair:
    """A public key and its secret. Only `public` is ever shown."""

    __slots__ = ("public", "secret")

    def __init__(self, public: str, secret: bytes) -> None:
        self.public = public
        self.secret = secret

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair, from the random numbers of the system."""
        import zmq

        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> KeyPair:
        """The pair in a file. Raises `SecurityError` when it cannot be read, or others may read it too."""
        fields = dict(_fields(read_private(path, "secret key")))
        secret = fields.get("secret-key", "")
        if not is_key(secret):
            raise SecurityError(
                f"{os.fspath(path)} has no secret key: expected a file that dploylib keygen made (NAME{SECRET_SUFFIX})"
            )
        import zmq

        public = zmq.curve_public(secret.encode()).decode()
        if fields.get("public-key", public) != public:
            raise SecurityError(f"the public key in {os.fspath(path)} does not belong to the secret key in it")
        return cls(public, secret.encode())

    def __repr__(self) -> str:
        return f"<KeyPair {fingerprint(self.public)}>"

    def __reduce__(self) -> Any:
        raise TypeError("a secret key stays in its process, and cannot be pickled")


def is_key(text: str) -> bool:
    """Whether this is a key as it is written: 40 characters of Z85."""
    if len(text) != _KEY_LENGTH:
        return False
    return _decoded(text) is not None


def fingerprint(public_key: str) -> str:
    """What tells a public key from others, and is safe to be shown: `SHA256:...`. `ValueError` for what is no key."""
    raw = _decoded(public_key)
    if raw is None:
        raise ValueError("this is no key of CURVE: it has 40 characters of Z85")
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def name_flaw(name: str) -> str | None:
    """What is wrong with the name of a key or a group; None when it can be one."""
    if _NAME.fullmatch(name):
        return None
    return "a name has at least one character, no space, comma, quote or slash, and no # at its beginning"


def public_key_of(written: str) -> str:
    """A public key, from itself or from the file that it is in. Raises `SecurityError`."""
    if is_key(written) and not os.path.exists(written):
        return written
    return read_certificate(written).credential


def read_certificate(path: str | os.PathLike[str]) -> Identity:
    """The public key in a file, under its name and in its groups. Raises `SecurityError`.

    The name is that of the file, without its ending, unless there is another one in it.
    """
    fields = dict(_fields(_read(path, "public key")))
    key = fields.get("public-key", "")
    if not is_key(key):
        raise SecurityError(f"{os.fspath(path)} has no public key: expected a file like NAME{PUBLIC_SUFFIX}, or a key")
    name = fields.get("name") or os.path.basename(os.fspath(path)).removesuffix(SECRET_SUFFIX).removesuffix(
        PUBLIC_SUFFIX
    )
    groups = frozenset(filter(None, re.split(r"[,\s]+", fields.get("groups", ""))))
    for one in (name, *groups):
        if flaw := name_flaw(one):
            raise SecurityError(f"{os.fspath(path)}: {one!r} is no name: {flaw}")
    return Identity(name, groups, key)


def write_certificate(path: str | os.PathLike[str], name: str, key: str, groups: Iterable[str] = ()) -> None:
    """Write a public key to a new file. Raises `SecurityError` when there is one already."""
    _write_new(path, _certificate(name, groups, key), 0o644)


def write_key_pair(base: str | os.PathLike[str], pair: KeyPair) -> tuple[str, str]:
    """Write a pair to two new files, `BASE.key` and `BASE.key_secret`, and return their paths.

    Raises `SecurityError` when there is one of them already; then nothing was written.
    """
    public, secret = f"{os.fspath(base)}{PUBLIC_SUFFIX}", f"{os.fspath(base)}{SECRET_SUFFIX}"
    name = os.path.basename(os.fspath(base))
    _write_new(secret, _certificate(name, (), pair.public, pair.secret.decode()), 0o600)
    try:
        _write_new(public, _certificate(name, (), pair.public), 0o644)
    except BaseException:
        os.unlink(secret)
        raise
    return public, secret


def read_private(path: str | os.PathLike[str], what: str) -> str:
    """The text of a file that nobody else may read. Raises `SecurityError`."""
    return _read(path, what, private=True)


def _decoded(text: str) -> bytes | None:
    from zmq.utils import z85

    with contextlib.suppress(Exception):  # it fails in several ways
        raw: bytes = z85.decode(text.encode("ascii"))
        if z85.encode(raw).decode() == text:
            return raw
    return None


def _read(path: str | os.PathLike[str], what: str, private: bool = False) -> str:
    shown = os.fspath(path)
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_LARGEST + 1) if not private or not mode & 0o077 else b""
    except OSError as error:
        if is_key(shown) or not shown.isprintable():  # somebody has given the key itself
            raise SecurityError(f"expected the path of a file with a {what}, and there is no such file") from None
        raise SecurityError(f"cannot read the {what} in {shown}: {error.strerror}") from error
    except ValueError:  # a NUL in the path
        raise SecurityError(f"expected the path of a file with a {what}") from None
    if private and mode & 0o077:
        raise SecurityError(
            f"others may read the {what} in {shown} (its permissions are {mode:04o}), so it is not used; "
            f"mend it: chmod 600 {shlex.quote(shown)}"
        )
    if len(data) > _LARGEST:
        raise SecurityError(f"{shown} is too large for a file with a {what}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SecurityError(f"{shown} is no text file, so there is no {what} in it") from None


def _fields(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        if match := _FIELD.fullmatch(line.rstrip()):
            name, *values = match.groups()
            yield name, next((value for value in values if value is not None), "")


def _certificate(name: str, groups: Iterable[str], public: str, secret: str | None = None) -> str:
    kind = "secret key: nobody else may read this file" if secret else "public key"
    lines = [f"# {name}: {kind}. {fingerprint(public)}", "metadata", f'    name = "{name}"']
    if listed := ",".join(sorted(groups)):
        lines.append(f'    groups = "{listed}"')
    lines += ["curve", f'    public-key = "{public}"']
    if secret:
        lines.append(f'    secret-key = "{secret}"')
    return "\n".join(lines) + "\n"


def _write_new(path: str | os.PathLike[str], text: str, mode: int) -> None:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise SecurityError(f"{os.fspath(path)} is there already, and is not overwritten") from None
    except OSError as error:
        raise SecurityError(f"cannot write {os.fspath(path)}: {error.strerror}") from error
    with open(file, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
