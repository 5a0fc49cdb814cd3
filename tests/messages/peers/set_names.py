"""Sets variables, one call each: `set_names.py URL MINE COUNT` when it gets a line. Prints a line when all are set."""

import sys

from dploylib.messages.store import EnvVarsStore

url, mine, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with EnvVarsStore(url) as store:
    for number in range(count):
        # All set these two, every second process in the other order.
        both = [("SHARED", f"{mine}-{number}"), ("TWIN", f"{mine}-{number}")]
        store.set("shop", "web", dict(both if mine[-1] in "02468" else reversed(both)))
        store.set("shop", "web", {f"{mine}_{number}": str(number)})
        store.set("shop", "web", {f"{mine}_GONE": "x"})
        store.unset("shop", "web", [f"{mine}_GONE"])
print("done", flush=True)
