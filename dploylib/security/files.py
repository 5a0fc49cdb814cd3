"""Files with keys and passwords: read as a whole, and written so that nobody sees a part of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Iterator

from ..errors import SecurityError
from .masked import MaskedBytes, MaskedText

__all__ = ["locked", "looks_like_key", "read_text", "replace", "write_new"]

_LARGEST = 16 * 2**20  # bytes; a list of a hundred thousand clients has less
# A key, or most of one. What is as long and has neither capitals nor anything else that paths seldom have, is a path.
_LIKE_A_KEY = re.compile(r"(?=.*[A-Z])[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{36,44}")


def looks_like_key(text: str) -> bool:
    """Whether this may be a key where a path is expected. Then it is better not shown."""
    return _LIKE_A_KEY.fullmatch(text.strip(" \t\r\n\"'")) is not None


def read_text(path: str | os.PathLike[str], what: str, private: bool = False) -> str:
    """The text of a file with a `what`, which nobody else may read if it is `private`. Raises `SecurityError`."""
    shown = os.fspath(path)
    file = _opened(shown, what, private)
    try:
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            found = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise SecurityError(f"cannot read the {what} in {shown}: it is {found}")
        if private and mode & 0o077:
            raise SecurityError(
                f"others may read the {what} in {shown} (its permissions are {stat.S_IMODE(mode):04o}), so it is not "
                f"used; mend it: chmod 600 {_argument(shown)}"
            )
        with open(file, "rb", closefd=False) as stream:
            data = (MaskedBytes if private else bytes)(stream.read(_LARGEST + 1))
    except OSError as error:
        raise SecurityError(f"cannot read the {what} in {shown}: {error.strerror}") from error
    finally:
        os.close(file)
    if len(data) > _LARGEST:
        raise SecurityError(f"cannot read the {what} in {shown}: it is larger than {_LARGEST >> 20} MiB")
    with contextlib.suppress(UnicodeDecodeError):  # which has all of the file in it, and goes no further
        return (MaskedText if private else str)(data.decode())
    raise SecurityError(f"cannot read the {what} in {shown}: it is no text in UTF-8")


def _opened(path: str, what: str, private: bool) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would wait for its writer
    except ValueError:  # a NUL in it, or what cannot be the name of a file
        pass
    except OSError as error:
        a_word = private and not re.search("[./_-]", path)  # the password itself, say
        if path.isprintable() and not looks_like_key(path) and not a_word:
            raise SecurityError(f"cannot read the {what} in {path}: {error.strerror}") from error
    # Out of the handlers, for their exceptions have the path in them.
    raise SecurityError(
        f"expected the path of a file with a {what}, and there is none of this name, which is not shown: it may be the "
        f"{what} itself"
    )


def _argument(path: str) -> str:
    """A path as a shell and its commands take it."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def write_new(path: str | os.PathLike[str], text: str, mode: int) -> None:
    """Write a new file with these permissions, whatever the umask. Raises `SecurityError`, also when there is one."""
    shown = os.fspath(path)
    try:
        file = os.open(shown, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode & 0o600)
    except FileExistsError:
        raise SecurityError(f"{shown} is there already, and is not overwritten") from None
    except (OSError, ValueError) as error:
        raise _cannot_write(shown, error) from error
    with _removed_if_it_fails(shown, shown):
        _write(file, text, mode)


def replace(path: str, text: str) -> None:
    """Write a file so that whoever reads it meanwhile sees the old one or the new one. Raises `SecurityError`.

    Its permissions stay, and its owner where that may be set. Of a symbolic link, it is the file behind it.
    """
    target = os.path.realpath(path)
    try:
        file, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)[:100]}.", dir=os.path.dirname(target))
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    with _removed_if_it_fails(path, temporary):
        mode = 0o644
        with contextlib.suppress(FileNotFoundError):
            old = os.stat(target)
            mode = stat.S_IMODE(old.st_mode)
            with contextlib.suppress(PermissionError):
                os.fchown(file, old.st_uid, old.st_gid)
        _write(file, text, mode)
        os.replace(temporary, target)


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Let no other process that asks for the same change the files of a directory. Raises `SecurityError`."""
    try:
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _cannot_write(directory, error) from error
    try:
        _lock(file, fcntl.LOCK_EX)
        yield
    finally:
        _lock(file, fcntl.LOCK_UN)  # now: where gevent has patched os.close, it closes later
        os.close(file)


def _lock(file: int, operation: int) -> None:
    with contextlib.suppress(OSError):  # some file systems of networks lock no directories
        fcntl.flock(file, operation)


def _write(file: int, text: str, mode: int) -> None:
    with open(file, "w", encoding="utf-8", newline="") as stream:
        os.fchmod(file, mode)
        stream.write(text)
        stream.flush()
        os.fsync(file)


@contextlib.contextmanager
def _removed_if_it_fails(shown: str, file: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(file)
        if isinstance(error, OSError):
            raise _cannot_write(shown, error) from error
        raise


def _cannot_write(path: str, error: Exception) -> SecurityError:
    reason = getattr(error, "strerror", None) or "no file can have this name"
    directory = os.path.dirname(path)
    if isinstance(error, FileNotFoundError) and directory and not os.path.lexists(directory):
        reason = f"there is no directory {directory}; make it first"
    return SecurityError(f"cannot write {path}: {reason}")
