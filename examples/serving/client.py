"""Ask the service of this directory without pause, and say who has answered. See service.py.

Ten greenlets ask, for a second or for as many as the third argument says. Nothing is asked twice: what is lost, fails.
"""

import sys
import time
from collections import Counter

import gevent

from dploylib import RequestClient

GREENLETS = 10


def main(greeter, numbers, seconds="1"):
    ends = time.monotonic() + float(seconds)
    greetings, processes, longest = Counter(), set(), [0.0]
    with RequestClient(greeter, timeout=30) as client:

        def ask():
            while time.monotonic() < ends:
                began = time.monotonic()
                answer = client.request("world").json
                longest.append(time.monotonic() - began)
                greetings[answer["text"]] += 1
                processes.add(answer["process"])

        gevent.joinall([gevent.spawn(ask) for _ in range(GREENLETS)], raise_error=True)
    for text, count in greetings.items():
        print(f"{count} times {text}")
    print(f"by {len(processes)} processes; the longest answer took {max(longest):.2f} s")
    with RequestClient(numbers, timeout=30) as client:
        answers = [client.request("next").json for _ in range(3)]
    print(f"numbers {' '.join(str(one['number']) for one in answers)}, all by process {answers[0]['process']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
