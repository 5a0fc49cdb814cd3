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
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ..errors import SecurityError
from .files import looks_like_key, read_text, write_new
from .masked import MaskedBytes, MaskedText

__all__ = [
    "PUBLIC_SUFFIX",
    "SECRET_SUFFIX",
    "Identity",
    "KeyPair",
    "certificate",
    "fingerprint",
    "has_secret_key",
    "is_key",
    "name_flaw",
    "public_key_of",
    "read_certificate",
    "write_key_pair",
]

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"

_KEY_LENGTH = 40
_NAME = re.compile(r"[^\s,#\"'/.][^\s,\"'/]*")
# A field of ZPL (ZeroMQ RFC 4), as much as is needed.
_FIELD = re.compile(r"\s*(name|groups|public-key|secret-key)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|(\S.*))")


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
        self.secret = MaskedBytes(secret)

    @classmethod
    def generate(cls) -> KeyPair:
        """A new pair, from the random numbers of the system, whose public key can stand in a configuration as it is."""
        import zmq

        while True:
            public, secret = zmq.curve_keypair()
            if b"${" not in public:  # which begins a placeholder there, and is in one key of 200
                return cls(public.decode(), secret)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> KeyPair:
        """The pair in a file. Raises `SecurityError` when it cannot be read, or others may read it too."""
        shown = os.fspath(path)
        if _is_public(shown):
            raise SecurityError(
                f"{shown} has the public key alone: the file with both is meant, "
                f"{shown.removesuffix(PUBLIC_SUFFIX)}{SECRET_SUFFIX}"
            )
        fields = _fields(shown, read_text(shown, "secret key", private=True))
        secret = fields.get("secret-key", "")
        if not is_key(secret):
            raise SecurityError(
                f"{shown} has no secret key: expected a file that dploylib keygen made (NAME{SECRET_SUFFIX})"
            )
        import zmq

        public = zmq.curve_public(secret.encode()).decode()
        if fields.get("public-key", public) != public:
            raise SecurityError(f"the public key in {shown} does not belong to the secret key in it")
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
    if _NAME.fullmatch(name) and name.isprintable():
        return None
    return "a name is printable, has no space, comma, quote or slash, and begins with neither # nor a dot"


def public_key_of(written: str) -> str:
    """A public key, from itself or from the file that it is in. Raises `SecurityError`."""
    if not written.endswith(PUBLIC_SUFFIX) and not os.path.exists(written):
        if is_key(written):
            return written
        if looks_like_key(written) or "/" not in written:
            raise SecurityError(
                f"expected a public key (40 characters of Z85) or the file that it is in (NAME{PUBLIC_SUFFIX}); this "
                f"has {len(written)} characters, and there is no such file"
            )
    return read_certificate(written).credential


def _is_public(path: str) -> bool:
    """Whether this is the file of a public key, which everybody may read."""
    with contextlib.suppress(SecurityError):
        return path.endswith(PUBLIC_SUFFIX) and not has_secret_key(path)
    return False


def has_secret_key(path: str | os.PathLike[str]) -> bool:
    """Whether a secret key is in a file, whatever its name is. Raises `SecurityError` when it cannot be read."""
    return "secret-key" in _fields(os.fspath(path), read_text(path, "key"))


def read_certificate(path: str | os.PathLike[str]) -> Identity:
    """The public key in a file, under its name and in its groups. Raises `SecurityError`.

    The name is that of the file, without its ending, unless there is another one in it.
    """
    shown = os.fspath(path)
    fields = _fields(shown, read_text(shown, "public key"))
    key = fields.get("public-key", "")
    if not is_key(key):
        raise SecurityError(
            f"{shown} has no public key: expected a file that dploylib keygen made (NAME{PUBLIC_SUFFIX})"
        )
    name = fields.get("name") or os.path.basename(shown).removesuffix(SECRET_SUFFIX).removesuffix(PUBLIC_SUFFIX)
    groups = frozenset(filter(None, re.split(r"[,\s]+", fields.get("groups", ""))))
    _check_names(f"{shown}: ", name, groups)
    return Identity(name, groups, key)


def certificate(name: str, groups: Iterable[str], public: str, secret: str | None = None) -> str:
    """The text of a file with a public key, or with both. Raises `SecurityError` for what is no name."""
    groups = sorted(set(groups))
    _check_names("", name, groups)
    kind = "secret key: nobody else may read this file" if secret else "public key"
    lines = [f"# {name}: {kind}. {fingerprint(public)}", "metadata", f'    name = "{name}"']
    if groups:
        lines.append(f'    groups = "{",".join(groups)}"')
    lines += ["curve", f'    public-key = "{public}"']
    if secret:
        lines.append(f'    secret-key = "{secret}"')
    return "\n".join(lines) + "\n"


def write_key_pair(base: str | os.PathLike[str], pair: KeyPair) -> tuple[str, str]:
    """Write a pair to two new files, `BASE.key` and `BASE.key_secret`, and return their paths.

    Raises `SecurityError` when there is one of them already; then nothing was written.
    """
    public, secret = f"{os.fspath(base)}{PUBLIC_SUFFIX}", f"{os.fspath(base)}{SECRET_SUFFIX}"
    name = os.path.basename(os.fspath(base))
    write_new(secret, certificate(name, (), pair.public, pair.secret.decode()), 0o600)
    try:
        write_new(public, certificate(name, (), pair.public), 0o644)
    except BaseException:
        os.unlink(secret)
        raise
    return public, secret


def _check_names(place: str, name: str, groups: Iterable[str]) -> None:
    for what, one in (("name", name), *(("name of a group", group) for group in groups)):
        if flaw := name_flaw(one):
            shown = "this" if looks_like_key(one) else repr(one)
            raise SecurityError(f"{place}{shown} is no {what}: {flaw}")


def _decoded(text: str) -> bytes | None:
    from zmq.utils import z85

    with contextlib.suppress(Exception):  # it fails in several ways
        raw: bytes = z85.decode(text.encode("ascii"))
        if z85.encode(raw).decode() == text:
            return raw
    return None


def _fields(path: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in _said_in(text):
        if name in fields:
            raise SecurityError(f"{path} has {name} more than once: expected a file with one key")
        fields[name] = value
    return fields


def _said_in(text: str) -> Iterator[tuple[str, str]]:
    """Names and values of the fields. A secret is masked, for some tools print the variables of who raises an error."""
    for match in filter(None, map(_FIELD.fullmatch, map(str.rstrip, text.split("\n")))):
        name, *values = match.groups()
        value = next(value for value in values if value is not None)
        yield name, MaskedText(value) if name == "secret-key" else value
