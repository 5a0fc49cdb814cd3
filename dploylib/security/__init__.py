"""Keys and passwords: what sockets are secured by, and whom they let in. No socket is touched here.

The way of the settings: `Security` (what is written) -> `Credentials` (its files read) -> the options of a socket, and
the `Gate` that decides who may come in, which the authenticator of `dploylib.transport` asks.
"""

from .authorized import authorize, revoke
from .credentials import Credentials, Gate
from .exposure import leaves_machine
from .keys import Identity, KeyPair, fingerprint, read_certificate, write_key_pair
from .peer import Peer
from .settings import ANYBODY, Security, ServiceSecurity

__all__ = [
    "ANYBODY",
    "Credentials",
    "Gate",
    "Identity",
    "KeyPair",
    "Peer",
    "Security",
    "ServiceSecurity",
    "authorize",
    "fingerprint",
    "leaves_machine",
    "read_certificate",
    "revoke",
    "write_key_pair",
]
