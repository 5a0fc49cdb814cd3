"""Run the tests twice, plain and monkey-patched, in pieces, some at once: most tests wait, and leave cores idle.

Whenever a piece is done, its lane takes the next one, so that no lane has much more to do than the others. What a piece
says is printed when it is done. With arguments, those of pytest, there are two pieces, of what the arguments say.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

PLAIN, PATCHED = "pytest", "dploylib.testing"
OTHERS = "what has no piece of its own"
PIECES = [  # the longest ones first, or the last one would run alone
    (PLAIN, "tests/daemon"),
    (PLAIN, OTHERS),
    (PATCHED, "tests/services"),
    (PLAIN, "tests/services"),
    (PATCHED, OTHERS),
    (PLAIN, "tests/clients"),
    (PLAIN, "tests/hard"),
    (PATCHED, "tests/daemon"),
    (PLAIN, "tests/cli"),
    (PLAIN, "tests/servers"),
    (PATCHED, "tests/servers"),
    (PATCHED, "tests/clients"),
    (PLAIN, "tests/testing"),
]
LANES = (os.cpu_count() or 2) + 1
printing = threading.Lock()


def arguments_of(module, piece):
    """What pytest is to be told, so that all of its pieces are all of the tests."""
    if piece != OTHERS:
        return [piece]
    return [f"--ignore={one}" for of, one in PIECES if of == module and one != OTHERS]


def run(module, piece, arguments):
    """Run a piece, print what it says, and return its name and its status."""
    name = f"{'plain' if module == PLAIN else 'monkey-patched'}: {piece}"
    began = time.monotonic()
    with (
        tempfile.TemporaryFile() as output
    ):  # a pipe would be waited for as long as anybody has it, who was left behind
        status = subprocess.call([sys.executable, "-m", module, *arguments], stdout=output, stderr=output)
        output.seek(0)
        with printing:
            print(f"{name}, in {time.monotonic() - began:.0f} s", flush=True)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return name, status


def main(given):
    pieces = [(module, piece, arguments_of(module, piece)) for module, piece in PIECES]
    if given:
        pieces = [(module, " ".join(given), given) for module in (PLAIN, PATCHED)]
    with ThreadPoolExecutor(LANES) as lanes:
        outcomes = list(lanes.map(run, *zip(*pieces, strict=True)))
    failed = [name for name, status in outcomes if status]
    print(*(f"failed: {name}" for name in failed), sep="\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
