"""Make or mend .venv, so that it has requirements.txt and this checkout. Does nothing when it has them already.

Written for any Python, so that one that is too old gets as far as saying so.
"""

import hashlib
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "complete")
OLDEST = (3, 10)


def main():
    if sys.version_info[:2] < OLDEST:
        sys.exit(
            "dploylib needs Python %d.%d or newer, and this is %d.%d: choose another one, as in PYTHON=python3.12 make"
            % (OLDEST + sys.version_info[:2])
        )
    home, wanted = fingerprints()
    had = read_stamp()
    if had == [home, wanted] and works():
        return
    try:
        import ensurepip  # noqa: F401 - only whether it is there
        import venv  # noqa: F401 - the same
    except ImportError:
        sys.exit(
            sys.executable + " comes without venv or ensurepip: install them (on Debian and Ubuntu: "
            "apt-get install python3-venv), or choose another interpreter with PYTHON=..."
        )
    print("preparing .venv with Python " + sys.version.split()[0])
    sys.stdout.flush()  # before what pip says
    # Without a stamp the last run did not finish, so what is there cannot be built on.
    reusable = had[:1] == [home] and works()
    if os.path.exists(STAMP):
        os.remove(STAMP)
    if not reusable:
        run([sys.executable, "-m", "venv", "--clear", VENV])
    pip = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(pip + ["-r", os.path.join(ROOT, "requirements.txt")])
    run(pip + ["--no-deps", "--editable", ROOT])
    with open(STAMP, "w") as stamp:
        stamp.write(home + "\n" + wanted + "\n")


def fingerprints():
    """Return what the environment depends on: its interpreter and place, and what is to be installed in it."""
    home = " ".join(sys.version.split() + [sys.base_prefix, VENV])
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return home, digest.hexdigest()


def read_stamp():
    try:
        with open(STAMP) as stamp:
            return stamp.read().splitlines()
    except OSError:
        return []


def works():
    """Whether the environment's interpreter starts and finds its packages (`-I`: in the environment, not here)."""
    check = "import dploylib, pip, pytest, zmq"
    try:
        return subprocess.call([VENV_PYTHON, "-I", "-c", check], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def run(command):
    code = subprocess.call(command)
    if code != 0:
        sys.exit("could not prepare .venv: " + " ".join(command) + " failed (see above); the next run starts afresh")


main()
