"""Binds an endpoint with dploylib, says so, and closes it when told to: `bind_ipc.py URI`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from dploylib.errors import AddressInUse
from dploylib.transport import Context

with Context.new() as context:
    try:
        context.socket("pull").bind(sys.argv[1])
    except AddressInUse:
        print("AddressInUse", flush=True)
        sys.exit(1)
    print("bound", flush=True)
    sys.stdin.readline()
