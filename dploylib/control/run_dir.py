"""The run directory of a service: what goes on between its processes, and what it says of itself."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shlex
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigurationError, ConfigurationProblem, EndpointError
from ..ipc_lock import lock_file
from .finding import leaders_in, lock_path, make_base, pointer_to, running_in, status_file, write_status

__all__ = ["RunDir"]

_LONGEST_NAME = 24  # the path of a socket has 107 characters


class RunDir:
    """A run directory. `given` is one that somebody else cares for, or that was there before: it is not removed.

    Only one service has it, by the process that leads it (that of `dploylib run`, or an arbiter or two): `lock` is the
    descriptor of a file that it has locked. The lock is the kernel's, and ends with the last of them, however it ends;
    forked children have to `let_go` of it.
    """

    def __init__(self, path: str, lock: int, given: bool) -> None:
        self.path = path
        self._lock = lock
        self._given = given

    @classmethod
    def make(cls, name: str, owner: tuple[int, int], path: str | None = None) -> RunDir:
        """Make the one of a service of this name, for a user and a group: at `path`, or in `base_directory`.

        Raises `EndpointError` where the latter cannot be trusted, and `ConfigurationError` where `path` cannot, or
        another service has it.
        """
        if path is not None:
            return cls._at(os.path.realpath(path), owner)
        prefix = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:_LONGEST_NAME]
        path = tempfile.mkdtemp(prefix=f"{prefix}-", dir=make_base())
        made = cls(path, lock_file(lock_path(path)), given=False)
        made._give(owner)
        return made

    @classmethod
    def _at(cls, path: str, owner: tuple[int, int]) -> RunDir:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            _check(path, owner)
            lock = lock_file(lock_path(path))
        except BlockingIOError as error:
            raise _refused(
                f"{path} is the run directory of {_holders(path)}: "
                "stop that first, or let this service have one of its own (--run-dir)"
            ) from error
        except OSError as error:
            raise _refused(f"{path} cannot be the run directory: {error.strerror}") from error
        made = cls(path, lock, given=True)
        made._forget_all()  # what is left of a service that was killed
        made._give(owner)
        with contextlib.suppress(OSError, EndpointError):  # it is found by its path in any case
            if os.path.realpath(make_base()) != os.path.dirname(path):
                os.symlink(path, pointer_to(path))
        return made

    @classmethod
    def inherited(cls, text: str) -> RunDir:
        """The one that another arbiter has `handed_over`."""
        said = json.loads(text)
        os.set_inheritable(said["lock"], False)
        return cls(**said)

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[str]:
        """As long as this goes on, a program that is executed can have it, too, by this text."""
        os.set_inheritable(self._lock, True)
        try:
            yield json.dumps({"path": self.path, "lock": self._lock, "given": self._given})
        finally:
            os.set_inheritable(self._lock, False)

    def let_go(self) -> None:
        """In a child of the arbiter: this is not its own."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Say what there is to be known of the service, or of this arbiter's part of it, until it has let go."""
        if self._lock >= 0:
            write_status(self.path, status)

    def expect(self, pid: int) -> None:
        """Count a second arbiter among those that have it, though it has said nothing yet."""
        with contextlib.suppress(OSError):  # it has, or there is no space for a status anyway
            os.close(os.open(status_file(self.path, pid), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC))

    def forget(self, pid: int) -> None:
        """Count an arbiter no more: it has ended."""
        _unlink(status_file(self.path, pid))

    def leave(self) -> bool:
        """Say nothing more of this arbiter. Returns whether it is the last one that has it.

        Of two that leave at once, at least one is.
        """
        if self._lock < 0:
            return False
        self.forget(os.getpid())
        try:
            return not leaders_in(self.path)
        except FileNotFoundError:  # somebody has removed it
            return True

    def remove(self, last: bool = True) -> None:
        """Let go of it, and remove it with the last arbiter; of one that is given, what was written to it.

        Does nothing when that was done already: from then on it may be another service's.
        """
        if self._lock < 0:
            return
        if last and self._given:
            self._forget_all()
            _unlink(lock_path(self.path))
        elif last:
            shutil.rmtree(self.path, ignore_errors=True)
        self.let_go()

    def _give(self, owner: tuple[int, int]) -> None:
        try:
            if owner != (os.geteuid(), os.getegid()):
                os.chown(self.path, *owner)
        except OSError as error:
            self.remove()
            raise _refused(f"{self.path} cannot be given to {_user(owner[0])}: {error.strerror}") from error

    def _forget_all(self) -> None:
        """Remove what says that there is a service here."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.path):
                if name.startswith(("status.", "control.", "ended.")):
                    _unlink(os.path.join(self.path, name))
        _unlink(pointer_to(self.path))


def _check(path: str, owner: tuple[int, int]) -> None:
    """Refuse a directory in which others could put something in our place."""
    found = os.stat(path)
    mend = []
    if found.st_uid not in (os.geteuid(), owner[0]):
        mend.append(f"chown {_user(owner[0])} {shlex.quote(path)}")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mend.append(f"chmod 700 {shlex.quote(path)}")
    if mend:
        raise _refused(
            f"{path} belongs to {_user(found.st_uid)}, with mode {stat.S_IMODE(found.st_mode):04o}: others than "
            f"{_user(owner[0])} could listen in; mend it by {' && '.join(mend)}"
        )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _holders(path: str) -> str:
    with contextlib.suppress(OSError):
        if found := running_in(path):
            return " and ".join(f"{one['name']} ({one['pid']})" for one in found)
    return "a service that is just starting"


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError([ConfigurationProblem("daemon.run_dir", why)])


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
