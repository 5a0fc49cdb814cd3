"""Keys to be tested with, and a user whom the permissions of files mean something to."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dploylib.security import KeyPair

NOBODY = 65534


@pytest.fixture(scope="session")
def keys() -> list[str]:
    """Public keys, all different."""
    return [KeyPair.generate().public for _ in range(4)]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask, until the end of the test."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


@pytest.fixture
def bounded() -> Iterator[Path]:
    """A directory of somebody whom permissions stop, which they do not do to root. That is who runs the test."""
    path = Path(tempfile.mkdtemp(prefix="dl-"))
    root = os.geteuid() == 0
    if root:
        os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield path
    finally:
        if root:
            os.seteuid(0)
        for directory, _, _ in os.walk(path):
            os.chmod(directory, 0o700)
        shutil.rmtree(path)
