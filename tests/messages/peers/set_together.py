"""Sets two variables to the same value, one value after the other, until it is killed: `set_together.py URL`."""

import itertools
import sys

from dploylib.messages.store import EnvVarsStore

with EnvVarsStore(sys.argv[1]) as store:
    for number in itertools.count():
        store.set("shop", "web", {"ONE": str(number), "TWIN": str(number)})
