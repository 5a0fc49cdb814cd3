"""Ask the service of this directory many things at once. See service.py."""

import sys

from dploylib.transport import Context, Envelope

REQUESTS = 20


def main(work, progress):
    with Context.new() as context:
        # A DEALER sends without waiting for replies. The request frame is our choice, and comes back with the reply.
        dealer = context.socket("dealer")
        dealer.connect(work)
        for number in range(REQUESTS):
            dealer.send_envelope(Envelope.new("application/json", str(number), request_frames=[b"%d" % number]))
        replies = [dealer.receive_obj(dict, timeout=30) for _ in range(REQUESTS)]
        print(f"{len(replies)} replies; up to {max(reply['at once'] for reply in replies)} handlers ran at once")

        dealer = context.socket("dealer")
        dealer.connect(progress)
        dealer.send_envelope(Envelope.new("text/plain", "go", request_frames=[b"1"]))
        print(dealer.receive_text(timeout=30))
        print(dealer.receive_text(timeout=30))


if __name__ == "__main__":
    main(*sys.argv[1:])
