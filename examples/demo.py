"""Deploy a small web application with examples/dploy, look at it, and stop it again: `make demo`.

    python examples/demo.py

It needs no network, and leaves nothing behind.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parent.parent
SERVICES = ("queues", "broadcast", "build", "zone")
PATIENCE = 50  # seconds for everything


def start(service, environment):
    command = ["-m", "dploylib", "run", f"examples.dploy.{service}", "-c", f"examples/dploy/{service}.yaml"]
    print("$", shlex.join(["python", *command, "--log-level", "warning"]), "&")
    return subprocess.Popen([sys.executable, *command, "--log-level", "warning"], cwd=ROOT, env=environment)


def dploy(environment, *arguments):
    """Run a command of the client, show what it says, and return that."""
    print(f"\n$ python -m examples.dploy {shlex.join(arguments)}", flush=True)
    command = [sys.executable, "-m", "examples.dploy", *arguments]
    said = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(f"  {line}", end="", flush=True)
            said += line
    if process.returncode != 0:
        sys.exit(f"dploy {arguments[0]} failed with status {process.returncode}")
    return said


def fetch(url):
    print(f"\n$ curl {url}", flush=True)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE) as response:
        for line in response.read().decode().splitlines():
            print(f"  {line}")


def show(environment):
    said = dploy(environment, "push", "examples/dploy/sample", "-m", "a first try")
    url = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
    fetch(url)
    dploy(environment, "env", "set", "sample", "GREETING=Moin")
    fetch(url)
    for command in (["ps"], ["releases", "sample"], ["logs", "sample", "--lines", "5"], ["stop", "sample"]):
        dploy(environment, *command)


def main():
    with tempfile.TemporaryDirectory(prefix="dploy-") as home:
        environment = {**os.environ, "DPLOY_HOME": home}
        processes = [start(service, environment) for service in SERVICES]
        watchdog = threading.Timer(PATIENCE, lambda: [process.terminate() for process in processes])
        watchdog.start()
        try:
            show(environment)
        finally:
            for process in reversed(processes):  # those who say something before those whom they say it to
                process.terminate()
                process.wait()
            watchdog.cancel()
    if any(process.returncode for process in processes):
        sys.exit(f"the services ended with {[process.returncode for process in processes]}")
    print("\nThe services have stopped, and nothing is left.")


if __name__ == "__main__":
    main()
