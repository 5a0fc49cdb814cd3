"""Who may connect: lists of names with their keys or passwords, which are read again when they change."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from ..errors import SecurityError
from .files import locked, read_text, replace
from .keys import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Identity,
    certificate,
    fingerprint,
    is_key,
    name_flaw,
    read_certificate,
)
from .masked import MaskedText

__all__ = ["AuthorizedKeys", "Passwords", "Roster", "Rosters", "authorize", "identities", "revoke"]

_State: TypeAlias = tuple[object, ...]
_Entry: TypeAlias = tuple[str, Identity | str]  # where it stands, and who it is, or what is wrong with it

# At a directory that is another one each time. Then it is read as it is, or nobody would be revoked while others come.
_MOST_LOOKS = 8
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # they pass, and say nothing about a file


class Roster:
    """Those who may connect, by what they are known by: a public key, or a user name.

    It is read when it is made, and then whenever `changed` finds that it is another one. Raises `SecurityError` with
    everything that is wrong with it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._state = self._seen = _state_of(path)
        self._looks = 0  # in a row, each of which has seen another state
        self._by_id, self._problems = self._read()
        if self._problems:
            raise SecurityError("\n".join(self._problems))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, id: str) -> Identity | None:
        """Who is known by this key, or user name."""
        return self._by_id.get(id)

    def changed(self, complain: Callable[[str], None]) -> dict[str, Identity] | None:
        """Look whether the files are others than before, and read them then. To be called again and again.

        Returns what was there before, by id, if it is not what is there now; else None. What is being written is left
        alone until the next call, a directory not for ever. `complain` is told once what is wrong: who cannot be read
        is not let in any more. A file that is gone lets nobody in; one that cannot be read for another reason changes
        nothing. What is wrong is looked at again each time.
        """
        state = _state_of(self.path)
        if state != self._seen:
            self._seen = state
            self._looks += 1
            if self._looks < _MOST_LOOKS or not os.path.isdir(self.path):
                return None
        self._looks = 0
        if state == self._state and not self._problems:
            return None
        self._state = state
        before, known = self._by_id, self._problems
        try:
            self._by_id, self._problems = self._read()
        except SecurityError as error:
            self._problems = [str(error)]
            if _is_gone(self.path):
                self._by_id = {}
        for problem in self._problems:
            if problem not in known:
                complain(problem)
        return None if self._by_id == before else before

    def _read(self) -> tuple[dict[str, Identity], list[str]]:
        by_id: dict[str, Identity] = {}
        problems = []
        for place, entry in self._entries():
            if isinstance(entry, str):
                problems.append(entry)
                continue
            known = by_id.setdefault(self.id_of(entry), entry)
            if known is not entry:
                problems.append(f"{place}: {entry.name} is there already, as {known.name}")
        return by_id, problems

    def id_of(self, identity: Identity) -> str:
        """What it is known by."""
        return identity.credential

    def _entries(self) -> Iterable[_Entry]:
        raise NotImplementedError


class AuthorizedKeys(Roster):
    """Keys of clients: a directory of `NAME.key` files, or a file with lines `NAME KEY GROUP,GROUP`."""

    def __init__(self, path: str) -> None:
        self._certificates: dict[str, tuple[_State, Identity]] = {}  # of a directory, by file, as they were read last
        super().__init__(path)

    def _entries(self) -> Iterable[_Entry]:
        return identities(self.path, self._certificates)


class Passwords(Roster):
    """Names and passwords: a file with lines `NAME PASSWORD GROUP,GROUP`, which nobody else may read."""

    def id_of(self, identity: Identity) -> str:
        """The user name."""
        return identity.name

    def _entries(self) -> Iterable[_Entry]:
        for place, entry in _lines(self.path, read_text(self.path, "list of passwords", private=True), "PASSWORD"):
            masked = isinstance(entry, Identity) and entry._replace(credential=MaskedText(entry.credential))
            yield place, masked or entry


class Rosters:
    """The lists that several sockets look at: each is read once, and looked at again for all of them."""

    def __init__(self) -> None:
        self._rosters: dict[tuple[type[Roster], str], Roster] = {}

    def open(self, kind: type[Roster], path: str) -> Roster:
        """The list at a path. Raises `SecurityError`, as above."""
        key = (kind, path)
        if key not in self._rosters:
            self._rosters[key] = kind(path)
        return self._rosters[key]

    def look_again(
        self, used: Collection[Roster | None], complain: Callable[[str], None]
    ) -> list[tuple[Roster, dict[str, Identity]]]:
        """Those that have changed, with what was there before. Who is not used any more is forgotten."""
        self._rosters = {key: roster for key, roster in self._rosters.items() if roster in used}
        looked = [(roster, roster.changed(complain)) for roster in self._rosters.values()]
        return [(roster, before) for roster, before in looked if before is not None]


def identities(path: str, known: dict[str, tuple[_State, Identity]] | None = None) -> Iterator[_Entry]:
    """The authorized keys at a path, each with its place: a file, or a file and a line. Or what is wrong there.

    Files of a directory that are as they were when they became `known` are not read again. Raises `SecurityError` when
    nothing can be read.
    """
    if not os.path.isdir(path):
        yield from _lines(path, _text(path), "KEY")
        return
    try:
        files = _certificates(path)
    except OSError as error:
        raise SecurityError(f"cannot read the authorized keys in {path}: {error.strerror}") from error
    known = {} if known is None else known
    for file in known.keys() - set(files):
        del known[file]
    for file in files:
        stamp = _stamp(file)
        try:
            if file not in known or known[file][0] != stamp:
                known.pop(file, None)
                known[file] = stamp, read_certificate(file)
            yield file, known[file][1]
        except SecurityError as error:
            if getattr(error.__cause__, "errno", None) in _SHORTAGES:
                raise
            yield file, str(error)


def authorize(path: str, name: str, key: str, groups: Iterable[str] = ()) -> str:
    """Add a key to a directory or a file, and return where it is. Without either, what ends with / is a new directory.

    Raises `SecurityError` when the name or the key is there already, or cannot be one.
    """
    groups = sorted(set(groups))
    if not is_key(key):
        raise SecurityError("this is no public key: it has 40 characters of Z85")
    text = certificate(name, groups, key)
    if path.endswith("/"):
        _make_directory(path)
    directory = path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))
    with locked(directory):
        for place, entry in identities(path) if os.path.lexists(path) else ():
            if isinstance(entry, Identity) and (entry.credential == key or entry.name == name):
                same = "this key" if entry.credential == key else "another key"
                raise SecurityError(f"{entry.name} is authorized in {place} already, with {same}; revoke it first")
        if directory is path:
            file = os.path.join(path, name + PUBLIC_SUFFIX)
            if os.path.lexists(file):
                raise SecurityError(f"{file} is there already, and is not overwritten")
            replace(file, text)
            return file
        old = _text(path) if os.path.lexists(path) else ""
        ended = old if not old or old.endswith("\n") else f"{old}\n"
        replace(path, ended + " ".join(filter(None, (name, key, ",".join(groups)))) + "\n")
        return path


def revoke(path: str, who: str) -> list[Identity]:
    """Remove the keys of somebody, given by name, key or fingerprint, and return them.

    Raises `SecurityError` when there are none.
    """
    directory = path if os.path.isdir(path) else os.path.dirname(os.path.realpath(path))
    with locked(directory):
        gone = {place: one for place, one in identities(path) if isinstance(one, Identity) and who in _handles(one)}
        if not gone:
            raise SecurityError(
                f"{path} has no key of {who}: expected the name, fingerprint or key of somebody in it (see "
                "dploylib key show)"
            )
        if directory is path:
            for file in gone:
                _remove(file)
        else:
            lines = enumerate(_text(path).split("\n"), 1)
            replace(path, "\n".join(line for number, line in lines if f"{path}:{number}" not in gone))
    return list(gone.values())


def _handles(identity: Identity) -> tuple[str, ...]:
    return identity.name, identity.credential, fingerprint(identity.credential)


def _make_directory(path: str) -> None:
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    except (OSError, ValueError) as error:
        raise SecurityError(f"cannot make {path}: {getattr(error, 'strerror', error)}") from error


def _remove(file: str) -> None:
    try:
        os.unlink(file)
    except OSError as error:
        raise SecurityError(f"cannot remove {file}: {error.strerror}") from error


def _text(path: str) -> str:
    if path.endswith((PUBLIC_SUFFIX, SECRET_SUFFIX)):
        raise SecurityError(
            f"{path} is the file of one key: expected a directory of such files, or a file with lines NAME KEY "
            "GROUP,GROUP"
        )
    return read_text(path, "authorized keys")


def _lines(path: str, text: str, what: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, credential, listed = (*words, "", "")[:3]
        groups = frozenset(filter(None, listed.split(",")))
        # What is no name is not shown: in a list of passwords it may be a part of one.
        flaw = next(filter(None, map(name_flaw, (name, *groups))), None)
        if len(words) not in (2, 3):
            flaw = f"expected NAME {what}, or NAME {what} GROUP,GROUP; found {_counted(len(words))}"
        elif flaw is None and what == "KEY" and not is_key(credential):
            who = "the name, which looks like a key itself," if is_key(name) else name
            flaw = f"what stands behind {who} is no key: expected 40 characters of Z85"
        place = f"{path}:{number}"
        yield place, f"{place}: {flaw}" if flaw else Identity(name, groups, credential)


def _counted(words: int) -> str:
    return f"{words} word{'' if words == 1 else 's'}"


def _certificates(directory: str) -> list[str]:
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if _is_certificate(name)]


def _is_certificate(name: str) -> bool:
    return name.endswith(PUBLIC_SUFFIX) and name[0] != "."


def _state_of(path: str) -> _State:
    """What changes when a file, or one in a directory, is written, added, replaced or removed."""
    try:
        with os.scandir(path) as entries:  # half of what it costs to ask for each by its path
            return tuple((entry.name, _stamp(entry)) for entry in entries if _is_certificate(entry.name))
    except NotADirectoryError:
        return _stamp(path)
    except OSError as error:
        return (error.errno,)
    except ValueError:  # what cannot be the name of a file
        return ()


def _stamp(file: str | os.DirEntry[str]) -> _State:
    try:
        found = os.stat(file) if isinstance(file, str) else file.stat()
    except OSError as error:
        return (error.errno,)
    except ValueError:  # what cannot be the name of a file
        return ()
    # The last one changes with the permissions too, and nobody can set it back.
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False
