"""One owner for an ipc path: a lock file beside it, since libzmq lets a second bind silently steal the path."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

__all__ = ["IpcLock", "is_no_socket", "lock_file", "lockable_path"]


class IpcLock:
    """Holds `PATH.lock` until it is released. The lock is the kernel's: a killed owner holds nothing.

    Raises `BlockingIOError` when somebody else holds it, another `OSError` when the file cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock_path = f"{path}.lock"
        self._lock_file: int | None = lock_file(self._lock_path)
        self._bound: os.stat_result | None = None

    def bound(self) -> None:
        """Remember the socket that was just bound to the path."""
        self._bound = _stat(self._path)

    def release(self, remove: bool = True) -> None:
        """Let go, and remove both files: libzmq leaves the path behind, and it is removed only if it is still ours."""
        file, self._lock_file = self._lock_file, None
        if file is None:
            return
        for path, ours in ((self._path, self._bound), (self._lock_path, os.fstat(file))) if remove else ():
            with contextlib.suppress(OSError):  # the directory may be gone, or no longer be ours to change
                if _same(ours, _stat(path)):
                    os.unlink(path)
        os.close(file)


def lock_file(path: str) -> int:
    """Lock a file, which is made if need be, and return its descriptor: the lock lasts until that is closed everywhere.

    Raises `BlockingIOError` when somebody else holds it, another `OSError` when the file cannot be made.
    """
    while True:
        # Not where a link leads to: others may have put it there, in a directory that is not ours alone.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(file)
            raise
        # An owner that released removed the file after we opened it: then ours is one that nobody else sees.
        if _same(os.fstat(file), _stat(path)):
            return file
        os.close(file)


def lockable_path(endpoint: str) -> str | None:
    """The path of an `ipc://` endpoint that a second bind could steal; None for wildcards and abstract names."""
    transport, _, path = endpoint.partition("://")
    return path if transport == "ipc" and path != "*" and not path.startswith("@") else None


def is_no_socket(path: str) -> bool:
    """Whether there is something else at the path, or a link to something: libzmq removes whatever it finds there."""
    try:
        return not stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:  # nothing there, or libzmq will not get at it either
        return False


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _same(one: os.stat_result | None, other: os.stat_result | None) -> bool:
    return one is not None and other is not None and os.path.samestat(one, other)
