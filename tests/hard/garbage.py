"""What peers send that should not: bytes that are no ZMTP, ZMTP that makes no sense, messages that are no envelopes.

Everything comes from a `random.Random`, so that the same seed gives the same garbage.
"""

import struct
from collections.abc import Callable
from random import Random

from tests.hard.zmtp import COMMAND, GREETING, LONG, MORE, command, frame, message, ready

SOCKET_TYPES = ("REQ", "REP", "DEALER", "ROUTER", "PUB", "SUB", "XPUB", "XSUB", "PUSH", "PULL", "PAIR", "nonsense", "")
SIZES = (0, 1, 2, 8, 9, 254, 255, 256, 8191, 8192, 8193, 65535, 65536, 100_000)
GIANT = (2**16, 2**31 - 1, 2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 10, 2**64 - 1)
CURVE_GREETING = GREETING[:12] + b"CURVE".ljust(20, b"\0") + GREETING[32:]
GOOD = message([b"", b"", b"text/plain", b"good"])

# Of a PUB, whoever can connect can make libzmq slow: it walks all octets of all topics whenever a subscriber leaves
# (generic_mtrie_t::rm), 5 MB of them for seconds, and keeps 48 octets for each. A service cannot help that.
_LONGEST_TOPIC = 300

Garbage = Callable[[Random], bytes]


def some_bytes(random: Random) -> bytes:
    return random.randbytes(random.choice(SIZES))


# Instead of a greeting ---------------------------------------------------------------------------------------


def noise(random: Random) -> bytes:
    return some_bytes(random)


def other_protocol(random: Random) -> bytes:
    """What comes to a port by mistake: a browser, a TLS client, a port scanner, ZMTP 1.0 and 2.0."""
    return random.choice(
        [
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(508),
            b"\r\n\r\n",
            b"\x01\x00" + message([b"", b"", b"text/plain", b"ZMTP 1.0"]),
            b"\xff" + bytes(8) + b"\x7f\x01\x03\x00\x00" + GOOD,
        ]
    )


def broken_greeting(random: Random) -> bytes:
    """A greeting of which some octets are others, or missing; sometimes good messages follow."""
    greeting = bytearray(GREETING)
    for _ in range(random.randint(0, 5)):
        greeting[random.randrange(len(greeting))] = random.randrange(256)
    rest = ready(random.choice(SOCKET_TYPES)) + GOOD if random.random() < 0.5 else b""
    return bytes(greeting[: random.randint(1, len(greeting))]) + rest


def other_mechanism(random: Random) -> bytes:
    name = random.choice([b"PLAIN", b"CURVE", b"GSSAPI", b"NONE", b"\xff" * 20, b""])
    hello = command(b"HELLO", some_bytes(random))
    return GREETING[:12] + name.ljust(20, b"\0") + GREETING[32:] + hello


def broken_ready(random: Random) -> bytes:
    """A good greeting, and then a handshake that is none."""
    metadata = random.choice(
        [
            b"\x0bSocket-Type" + struct.pack(">I", random.choice([0, 3, 255, 2**31, 2**32 - 1])) + b"REQ",
            b"\xff" + random.randbytes(20),
            b"\x00" * 50,
            b"\x0bSocket-Type\x00\x00\x00\x03REQ" * 100,
            b"\x08Identity" + struct.pack(">I", 300) + random.randbytes(300),
            random.randbytes(300),
        ]
    )
    broken = random.choice([command(b"READY", metadata), frame(b"\x05READY" + metadata), ready("nonsense"), GOOD])
    return GREETING + broken + GOOD


# In place of a handshake of CURVE ----------------------------------------------------------------------------------


def cut_greeting(random: Random) -> bytes:
    """The beginning of a greeting, of which the rest never comes."""
    return CURVE_GREETING[: random.randrange(len(CURVE_GREETING))]


def false_hello(random: Random) -> bytes:
    """A HELLO of the right form, whose box nobody can open; and what would come next."""
    hello = b"\x01\x00" + bytes(72) + random.randbytes(32) + random.randbytes(8) + random.randbytes(80)
    return CURVE_GREETING + command(b"HELLO", hello) + command(b"INITIATE", random.randbytes(random.choice(SIZES)))


def any_curve_command(random: Random) -> bytes:
    """Commands of CURVE in any order and of any size, which nothing has led to."""
    names = [b"HELLO", b"WELCOME", b"INITIATE", b"READY", b"MESSAGE", b"ERROR", b""]
    commands = [command(random.choice(names), some_bytes(random)) for _ in range(random.randint(1, 5))]
    return CURVE_GREETING + b"".join(commands)


def giant_command(random: Random) -> bytes:
    """A command that says it has up to 2**64 - 1 octets, of which some come."""
    return CURVE_GREETING + struct.pack(">BQ", LONG | COMMAND, random.choice(GIANT)) + b"\x05HELLO" + some_bytes(random)


# After a handshake ---------------------------------------------------------------------------------------------


def any_command(random: Random) -> bytes:
    """Commands that exist, at the wrong time or with nonsense in them, and others."""
    names = [b"READY", b"PING", b"PONG", b"ERROR", b"CANCEL", b"HELLO", b"\xff\xff", b""]
    nonsense = [command(random.choice(names), some_bytes(random)) for _ in range(random.randint(1, 20))]
    return b"".join([*nonsense, command(b"SUBSCRIBE", random.randbytes(random.randint(0, _LONGEST_TOPIC)))])


def any_flags(random: Random) -> bytes:
    """Frames of which all eight bits of the flags may be set."""
    frames = [frame(random.randbytes(random.randint(0, 300)), random.randrange(256)) for _ in range(20)]
    return b"".join(frames)


def giant_frame(random: Random) -> bytes:
    """A frame that says it has up to 2**64 - 1 octets, of which some come."""
    flags = LONG | random.choice([0, MORE, COMMAND])
    return struct.pack(">BQ", flags, random.choice(GIANT)) + some_bytes(random)


def endless_message(random: Random) -> bytes:
    """Frames of a message that never ends."""
    return frame(random.randbytes(random.choice([0, 1, 100])), MORE) * random.choice([1, 255, 256, 257, 10_000])


def many_frames(random: Random) -> bytes:
    return message([random.choice([b"", b"x"])] * random.choice([255, 256, 257, 5000]))


def empty_frames(random: Random) -> bytes:
    return b"".join(message([b""] * random.randint(1, 8)) for _ in range(100))


def cut_message(random: Random) -> bytes:
    """A good message, and the beginning of another one."""
    return GOOD + GOOD[: random.randrange(len(GOOD))]


def damaged_message(random: Random) -> bytes:
    """Good messages of which some octets are others."""
    damaged = bytearray(GOOD * 5)
    for _ in range(random.randint(1, 5)):
        damaged[random.randrange(len(damaged))] = random.randrange(256)
    return bytes(damaged)


def subscriptions(random: Random) -> bytes:
    """What tells a PUB or XPUB of a subscription: to everything, to long topics, and back again more often."""
    return b"".join(
        frame(
            random.choice([b"\x00", b"\x01", b"\x02", b""]) + random.randbytes(random.choice([0, 1, 5, _LONGEST_TOPIC]))
        )
        for _ in range(random.choice([1, 50]))
    )


# Messages ------------------------------------------------------------------------------------------------------


def malformed_envelope(random: Random) -> bytes:
    return message(no_envelope(random))


def no_envelope(random: Random) -> list[bytes]:
    """Frames of a message that hardly ever are an envelope, with and without a description of the call."""
    pieces = [
        b"",
        b"",
        b"a",
        b"\xff",
        b"text/plain",
        b"application/json",
        b"{",
        "ü".encode(),
        b"\xed\xa0\x80",
        b"x" * 300,
    ]
    frames = [random.choice(pieces) for _ in range(random.randint(1, 12))]
    if random.random() < 0.5:
        frames.insert(random.randint(0, 1), broken_metadata(random))
    return frames


def broken_metadata(random: Random) -> bytes:
    """A frame that begins as a description of a call does."""
    return b"DPL1" + random.choice(
        [
            b"",
            b"\xc1",
            b"\x81\xa1d\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # a deadline that is no number
            b"\x81\xa1d\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # one in all eternity
            b"\x81\xa1d\xd3\x80\x00\x00\x00\x00\x00\x00\x00",  # one long ago
            b"\x81\xa1d\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x81\xa1r" + b"\x91" * 5000,
            b"\xdf\xff\xff\xff\xff",  # a map of 2**32 - 1 entries
            b"\x81\xa1t\xdb\xff\xff\xff\xff",  # a string of 4 GiB
            b"\x81\xa1r\xd9\x01\xff",
            random.randbytes(30),
        ]
    )


BEFORE_THE_HANDSHAKE: tuple[Garbage, ...] = (noise, other_protocol, broken_greeting, other_mechanism, broken_ready)
CURVE_HANDSHAKES: tuple[Garbage, ...] = (cut_greeting, false_hello, any_curve_command, giant_command)
AFTER_THE_HANDSHAKE: tuple[Garbage, ...] = (
    any_command,
    any_flags,
    giant_frame,
    endless_message,
    many_frames,
    empty_frames,
    cut_message,
    damaged_message,
    subscriptions,
    malformed_envelope,
)
