"""Why an endpoint cannot be reached. libzmq does not say, so the network is asked."""

from __future__ import annotations

import os
import time

from gevent import socket
from gevent.lock import BoundedSemaphore

__all__ = ["Diagnosis"]

_PATIENCE = 0.3  # seconds
_VALID = 1.0  # seconds


class Diagnosis:
    """Says why nobody can be reached at an endpoint, by trying it.

    Many may ask at once; the answer is good for a second.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = BoundedSemaphore(1)
        self._made_at = float("-inf")
        self._reason = ""

    def make(self) -> str:
        """The reason, in words of the system ("Connection refused"), or '' if there is none to be found."""
        with self._lock:
            if time.monotonic() - self._made_at > _VALID:
                self._reason = _why_unreachable(self._uri)
                self._made_at = time.monotonic()
            return self._reason


def _why_unreachable(uri: str) -> str:
    transport, _, address = uri.partition("://")
    try:
        if transport == "ipc":
            name = "\0" + address[1:] if address.startswith("@") else address
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_PATIENCE)
                probe.connect(name)
        elif transport == "tcp":
            host, _, port = address.rpartition(";")[2].rpartition(":")
            with socket.create_connection((host.strip("[]"), int(port)), _PATIENCE):
                pass
    except socket.gaierror as error:
        return f"the host {host!r} has no address ({error.strerror})"
    except OSError as error:
        return (os.strerror(error.errno) if error.errno else str(error)) or type(error).__name__
    except (ValueError, UnicodeError):  # not the form of an endpoint; libzmq takes more forms than this
        pass
    return ""
