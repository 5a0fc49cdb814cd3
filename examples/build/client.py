"""Have the service of this directory build something, and follow that. See service.py."""

import sys

from dploylib.clients import ObservableServiceClient
from dploylib.errors import RemoteFailure


def main(request, broadcasts):
    with ObservableServiceClient(request, broadcasts) as client:
        for app in ("shop", "broken"):
            try:
                for received in client.follow({"app": app}):
                    body = received.json["body"]
                    print(body.get("data") or body["type"])
            except RemoteFailure as error:
                print(f"{app} failed: {error.detail}")


if __name__ == "__main__":
    main(*sys.argv[1:])
