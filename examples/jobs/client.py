"""Put some jobs into the queue of this directory, and wait until all are done. See service.py."""

import sys
import time
from uuid import uuid4

from dploylib import RequestClient


def main(put, admin):
    with RequestClient(put) as queue, RequestClient(admin) as office:
        for name in ("lake.jpg", "moody.jpg", "wood.jpg"):
            # With an id, it does not matter how often a job is put: it is safe to repeat what was not answered.
            queue.request({"name": name, "width": 800}, id=str(uuid4()), idempotent=True)
            print("accepted", name)
        while True:
            status = office.request({"do": "status"}).json
            if not (status["waiting"] or status["held"] or status["delayed"]):
                break
            time.sleep(0.05)
        print(f"all done; {status['dead']} failed for good")


if __name__ == "__main__":
    main(*sys.argv[1:])
