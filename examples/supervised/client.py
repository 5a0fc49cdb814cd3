"""Ask the service of this directory often. What a crash leaves unanswered is asked again. See service.py."""

import sys

from dploylib import RequestClient

REQUESTS = 12


def main(counter, careless):
    # Either may be asked twice: so a request whose connection is lost is sent again, when there is a new one.
    with RequestClient(careless) as client:
        replies = [client.request(number, idempotent=True).json for number in range(REQUESTS)]
        processes = {reply["process"] for reply in replies}
        print(f"{REQUESTS} answers by {len(processes)} processes, one after the other")
    with RequestClient(counter) as client:
        counted = (client.request("next", idempotent=True).json for _ in range(REQUESTS))
        print("counted by one that goes on:", *counted)


if __name__ == "__main__":
    main(*sys.argv[1:])
