"""Who may connect: lists of names with their keys or passwords, which are read again when they change."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from ..errors import SecurityError
from .keys import (
    PUBLIC_SUFFIX,
    Identity,
    fingerprint,
    is_key,
    name_flaw,
    read_certificate,
    read_private,
    write_certificate,
)

__all__ = ["AuthorizedKeys", "Passwords", "Roster", "authorize", "identities", "revoke"]

_State: TypeAlias = tuple[object, ...]

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Roster:
    """Those who may connect, by what they are known by: a public key, or a user name.

    It is read when it is made, and then whenever `changed` finds that it is another one. Raises `SecurityError` with
    everything that is wrong with it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._state = self._seen = _state_of(path)
        self._by_id, problems = self._read()
        if problems:
            raise SecurityError("\n".join(problems))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> Identity | None:
        """Who is known by this key, or user name."""
        return self._by_id.get(id)

    def changed(self, complain: Callable[[str], None]) -> dict[str, Identity] | None:
        """Look whether the files are others than before, and read them then. To be called again and again.

        Returns what was there before, by id, if something has changed; else None. What is being written is left alone
        until the next call. `complain` is told what is wrong: who cannot be read is not let in any more. A file that is
        gone lets nobody in; one that cannot be read for another reason changes nothing. When no file can be opened at
        all, it is tried again.
        """
        try:
            state = _state_of(self.path)
        except SecurityError as error:
            if _passes(error):
                complain(str(error))
                return None
            state = (str(error),)
        if state == self._state or state != self._seen:
            self._seen = state
            return None
        self._state = state
        before = self._by_id
        try:
            self._by_id, problems = self._read()
        except SecurityError as error:
            if _passes(error):
                complain(str(error))
                self._state = ()
                return None
            problems = [str(error)]
            if not os.path.exists(self.path):
                self._by_id = {}
        for problem in problems:
            complain(problem)
        return before

    def _read(self) -> tuple[dict[str, Identity], list[str]]:
        by_id: dict[str, Identity] = {}
        problems = []
        for place, entry in self._entries():
            if isinstance(entry, str):
                problems.append(f"{place}: {entry}")
                continue
            id = self.id_of(entry)
            if id in by_id:
                problems.append(f"{place}: {entry.name} is there already, as {by_id[id].name}")
            else:
                by_id[id] = entry
        return by_id, problems

    def id_of(self, identity: Identity) -> str:
        """What it is known by."""
        return identity.credential

    def _entries(self) -> Iterable[tuple[str, Identity | str]]:
        """Each entry and where it stands, or what is wrong with it."""
        raise NotImplementedError


class AuthorizedKeys(Roster):
    """Keys of clients: a directory of `NAME.key` files, or a file with lines `NAME KEY GROUP,GROUP`."""

    def _entries(self) -> Iterable[tuple[str, Identity | str]]:
        return identities(self.path)


class Passwords(Roster):
    """Names and passwords: a file with lines `NAME PASSWORD GROUP,GROUP`, which nobody else may read."""

    def id_of(self, identity: Identity) -> str:
        """The user name."""
        return identity.name

    def _entries(self) -> Iterable[tuple[str, Identity | str]]:
        return _lines(self.path, read_private(self.path, "list of passwords"), "PASSWORD", lambda _: True)


def identities(path: str) -> Iterator[tuple[str, Identity | str]]:
    """The authorized keys at a path, each with its place: a file, or a file and a line. Or what is wrong there.

    Raises `SecurityError` when nothing can be read.
    """
    if os.path.isdir(path):
        for file in _certificates(path):
            try:
                yield file, read_certificate(file)
            except SecurityError as error:
                if _passes(error):
                    raise
                yield file, str(error).removeprefix(f"{file}: ")
        return
    yield from _lines(path, _text(path), "KEY", is_key)


def authorize(path: str, name: str, key: str, groups: Iterable[str] = ()) -> str:
    """Add a key to a directory or a file, and return where it is. Without either, what ends with / is a new directory.

    Raises `SecurityError` when the name or the key is there already, or cannot be one.
    """
    groups = sorted(set(groups))
    for one in (name, *groups):
        if flaw := name_flaw(one):
            raise SecurityError(f"{one!r} is no name: {flaw}")
    if not is_key(key):
        raise SecurityError("this is no public key: it has 40 characters of Z85")
    if path.endswith("/") and not os.path.exists(path):
        os.makedirs(path, 0o755)
    for place, entry in identities(path) if os.path.exists(path) else ():
        if isinstance(entry, Identity) and (entry.credential == key or entry.name == name):
            same = "this key" if entry.credential == key else "another key"
            raise SecurityError(f"{entry.name} is authorized in {place} already, with {same}; revoke it first")
    if os.path.isdir(path):
        file = os.path.join(path, name + PUBLIC_SUFFIX)
        write_certificate(file, name, key, groups)
        return file
    old = _text(path) if os.path.exists(path) else ""
    ended = old if not old or old.endswith("\n") else f"{old}\n"
    _replace(path, ended + " ".join(filter(None, (name, key, ",".join(groups)))) + "\n")
    return path


def revoke(path: str, who: str) -> list[Identity]:
    """Remove the keys of somebody, given by name, key or fingerprint, and return them.

    Raises `SecurityError` when there are none.
    """
    gone = [(place, one) for place, one in identities(path) if isinstance(one, Identity) and who in _handles(one)]
    if not gone:
        raise SecurityError(f"{path} has no key of {who}")
    if os.path.isdir(path):
        for file, _ in gone:
            os.unlink(file)
    else:
        numbers = {int(place.rpartition(":")[2]) for place, _ in gone}
        lines = _text(path).splitlines(keepends=True)
        _replace(path, "".join(line for number, line in enumerate(lines, 1) if number not in numbers))
    return [identity for _, identity in gone]


def _passes(error: SecurityError) -> bool:
    """Whether it says nothing about the file, and may be over in a moment."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING


def _handles(identity: Identity) -> tuple[str, ...]:
    return identity.name, identity.credential, fingerprint(identity.credential)


def _lines(path: str, text: str, what: str, fits: Callable[[str], bool]) -> Iterator[tuple[str, Identity | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        place = f"{path}:{number}"
        if len(words) not in (2, 3):
            yield place, f"expected NAME {what}, or NAME {what} GROUP,GROUP; found {len(words)} words"
            continue
        name, credential, groups = (*words, "")[:3]
        listed = list(filter(None, groups.split(",")))
        # What is no name is not shown: in a list of passwords it may be a part of one.
        flaw = name_flaw(name) or next(filter(None, map(name_flaw, listed)), None)
        if flaw is None and not fits(credential):
            flaw = f"what stands behind {name} is no {what.lower()}: expected 40 characters of Z85"
        yield place, flaw or Identity(name, frozenset(listed), credential)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text file"
        raise SecurityError(f"cannot read the authorized keys in {path}: {reason}") from error


def _certificates(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise SecurityError(f"cannot read the authorized keys in {directory}: {error.strerror}") from error
    return [
        os.path.join(directory, name) for name in names if name.endswith(PUBLIC_SUFFIX) and not name.startswith(".")
    ]


def _state_of(path: str) -> _State:
    """What changes when a file, or one in a directory, is written, added, replaced or removed."""
    try:
        files = _certificates(path) if os.path.isdir(path) else [path]
        return tuple((file, *_stamp(file)) for file in files)
    except OSError as error:
        raise SecurityError(f"cannot read {path}: {error.strerror}") from error


def _stamp(file: str) -> tuple[int, ...]:
    try:
        found = os.stat(file)
    except FileNotFoundError:  # since it was listed
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode


def _replace(path: str, text: str) -> None:
    """Write a file so that whoever reads it meanwhile sees the old one or the new one, with its old permissions."""
    mode = os.stat(path).st_mode & 0o777 if os.path.exists(path) else 0o644
    try:
        file, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path) or ".")
    except OSError as error:
        raise SecurityError(f"cannot write {path}: {error.strerror}") from error
    try:
        with open(file, "w", encoding="utf-8") as stream:
            os.fchmod(file, mode)
            stream.write(text)
            stream.flush()
            os.fsync(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
