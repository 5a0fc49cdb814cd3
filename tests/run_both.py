"""Run the tests twice at once, plain and monkey-patched, and the hard ones beside them: two passes leave cores idle.

With arguments, those of pytest, only the two passes run, of what the arguments say. What the passes but the first one
say is printed when they are done.
"""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

HARD = "tests/hard"
COMMANDS = ["tests/cli", "tests/dploy", "tests/testing"]  # most of which run in processes of their own
PLAIN, PATCHED = "pytest", "dploylib.testing"


def run(passes, output=None):
    """Run passes one after the other, and return their statuses."""
    commands = [[sys.executable, "-m", module, *arguments] for module, arguments in passes]
    return [subprocess.call(command, stdout=output, stderr=output and subprocess.STDOUT) for command in commands]


def main(arguments):
    plain = patched = arguments
    beside = {}
    if not arguments:
        patched = [f"--ignore={HARD}"]
        plain = [*patched, *(f"--ignore={one}" for one in COMMANDS)]
        beside["hard, plain and monkey-patched, and what runs commands, plain"] = [
            (PLAIN, [HARD]),
            (PATCHED, [HARD]),
            (PLAIN, COMMANDS),
        ]
    beside["monkey-patched"] = [(PATCHED, patched)]
    with ThreadPoolExecutor() as threads, ExitStack() as stack:
        running = {}
        for name, passes in beside.items():
            output = stack.enter_context(tempfile.TemporaryFile())
            running[name] = output, threads.submit(run, passes, output)
        print(f"plain; beside it run: {'; '.join(beside)}", flush=True)
        statuses = run([(PLAIN, plain)])
        for name, (output, passes) in running.items():
            statuses += passes.result()
            print(name, flush=True)
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return any(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
