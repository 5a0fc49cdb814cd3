"""Archives and cargos: tar.gz files that are written in whole or not at all, and unpacked where they cannot escape."""

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

LEFT_OUT = {".git", ".hg", ".venv", "venv", "__pycache__", ".DS_Store"}
NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")  # of apps and processes, whose names become those of files


class Unusable(Exception):
    """What somebody gave us cannot be used. The message says why, and is for them."""


def checked_name(name):
    if not NAME.fullmatch(name):
        raise Unusable(f"{name!r} is no name: it begins with a letter from a to z, then come letters, digits or -")
    return name


@contextlib.contextmanager
def whole_file(path):
    """A file to write, which is at its path once it is complete and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def pack(directory, path, choose=None):
    """Archive a directory. `choose` gets the entries one by one, and returns what is to be of each, or None."""
    with (
        whole_file(path) as file,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        tar.add(directory, ".", filter=choose)


def pack_app(directory, archives):
    """Archive an app, and return the archive and the commit: of a clean git checkout, or the SHA-1 of the archive."""

    def choose(entry):
        entry.uid = entry.gid = entry.mtime = 0  # equal files make an equal archive
        entry.uname = entry.gname = ""
        return None if Path(entry.name).name in LEFT_OUT else entry

    archives.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=archives) as temporary:
        packed = Path(temporary, "app")
        pack(directory, packed, choose)
        content = hashlib.sha1(packed.read_bytes()).hexdigest()
        archive = archives / f"{content}.tar.gz"
        os.replace(packed, archive)
    return archive, git_commit(directory) or content


def git_commit(directory):
    """The commit of a git checkout without changes, None for everything else."""
    try:
        git = ["git", "-C", directory]
        top, commit = subprocess.check_output(
            [*git, "rev-parse", "--show-toplevel", "HEAD"], stderr=subprocess.DEVNULL, text=True
        ).splitlines()
        changes = subprocess.check_output([*git, "status", "--porcelain"], stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit if not changes and os.path.samefile(top, directory) else None


def unpack(archive, directory):
    """Unpack an archive into a new directory, which is there in whole or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=directory.parent))
    try:
        # "data" refuses what would end up outside, and devices; and takes no owners and no setuid bits over.
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(temporary, filter="data")
        os.replace(temporary, directory)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Unusable(f"{archive.name} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def fetch(uri, path):
    """Download a file."""
    try:
        with urllib.request.urlopen(uri, timeout=30) as source, whole_file(path) as file:
            shutil.copyfileobj(source, file)
    except (OSError, ValueError) as error:
        raise Unusable(f"{uri} cannot be fetched: {error}") from error


def read_processes(directory):
    """The process table of an app: its commands by the names of the processes."""
    try:
        lines = (directory / "Procfile").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        raise Unusable("there is no Procfile: it has a line NAME: COMMAND for each process of the app") from None
    processes = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if line and not line.startswith("#"):
            name, colon, command = map(str.strip, line.partition(":"))
            if not (colon and command):
                raise Unusable(f"Procfile:{number}: expected NAME: COMMAND, found {line!r}")
            processes[checked_name(name)] = command
    if not processes:
        raise Unusable("the Procfile has no process: it has a line NAME: COMMAND for each")
    return processes
