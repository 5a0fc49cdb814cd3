"""Order something, as part of a trace that begins here. See service.py."""

import secrets
import sys

from dploylib import Envelope, Socket
from dploylib.transport import Metadata


def main(endpoint):
    trace_id = secrets.token_hex(16)
    # What OpenTelemetry would say in a program that has it, where a RequestClient is enough.
    metadata = Metadata("order 1", traceparent=f"00-{trace_id}-{secrets.token_hex(8)}-01")
    with Socket.new("dealer", endpoint) as socket:
        socket.send_envelope(Envelope.new("text/plain", "socks", request_frames=[metadata.to_frame()]))
        print(f"{socket.receive_envelope(timeout=10).text}: trace {trace_id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
