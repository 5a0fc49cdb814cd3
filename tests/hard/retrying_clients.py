"""Clients of ours that ask without pause, idempotent requests, until stdin is closed: `retrying_clients.py URI NUMBER`.

Prints as JSON what came of it: requests, answers, errors by their kinds, and the longest time that one took.
"""

import collections
import json
import sys
import time

import gevent
from gevent import select

from dploylib.clients import RequestClient
from dploylib.errors import DployError


def main(uri: str, number: int) -> None:
    over = False
    counts: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    longest = 0.0

    def keep_asking() -> None:
        nonlocal longest
        with RequestClient(uri, timeout=20, retries=20) as client:
            while not over:
                counts["requests"] += 1
                text, began = str(counts["requests"]), time.monotonic()
                try:
                    answer = client.request(text, idempotent=True).text
                except DployError as error:
                    errors[f"{type(error).__name__}: {error}"] += 1
                else:
                    counts["answers"] += 1
                    counts["wrong"] += not answer.endswith(f" {text}")
                longest = max(longest, time.monotonic() - began)

    greenlets = [gevent.spawn(keep_asking) for _ in range(number)]
    select.select([sys.stdin], [], [])
    over = True
    gevent.joinall(greenlets)
    print(json.dumps({"wrong": 0, **counts, "errors": errors, "longest": longest}))


main(sys.argv[1], int(sys.argv[2]))
