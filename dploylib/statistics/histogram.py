"""A histogram of durations whose buckets are the same everywhere, so that those of several processes add up.

A bucket is known by the first 14 bits of a duration as a float of 32 bits: its sign, its exponent, and five bits of its
mantissa. So each power of two has 32 buckets, as with HdrHistogram, and what is read from them is within 1.6 % of what
was recorded. C can note such floats, add them, and count their first 16 bits, many at once: see `Timings`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

import msgspec

__all__ = ["Histogram", "Timings"]

_FLOAT, _BITS = struct.Struct("=f"), struct.Struct("=I")
_FIRST = 1 if sys.byteorder == "little" else 0  # of the two 16-bit words of a float


class Histogram(msgspec.Struct, kw_only=True):
    """How long something took, how often.

    `counts` has the number of durations in each bucket, by the number of the bucket; those without any are not there.
    `sum` is all of them together, in seconds.
    """

    counts: dict[int, int] = {}
    sum: float = 0.0

    def record(self, seconds: float) -> None:
        """Count a duration."""
        bucket = _bucket(seconds)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.sum += seconds

    @property
    def count(self) -> int:
        """How many durations there are."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The mean of them, in seconds; 0 where there are none."""
        return self.sum / (self.count or 1)

    def quantile(self, share: float) -> float:
        """The duration that this share of them (0 to 1) does not exceed, in seconds; 0 where there are none."""
        return self.quantiles([share])[0]

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Several of them; the middle of the bucket that each is in."""
        buckets = sorted(self.counts.items())
        count = self.count
        found = []
        for share in shares:
            left = max(1, -(-count * share // 1))  # the nearest rank, from 1 on
            value = 0.0
            for bucket, number in buckets:
                left -= number
                if left <= 0:
                    value = (_lower(bucket) + _lower(bucket + 1)) / 2
                    break
            found.append(value)
        return found

    def below(self, bounds: Sequence[float]) -> list[int]:
        """How many durations are below each of these, in seconds. Exact for powers of two."""
        buckets = sorted(self.counts)
        upto = [0, *accumulate(self.counts[bucket] for bucket in buckets)]
        return [upto[bisect_left(buckets, _next_bucket(bound))] for bound in bounds]

    def __add__(self, other: Histogram) -> Histogram:
        counts = dict(self.counts)
        for bucket, number in other.counts.items():  # half of what it takes with Counters, and there are many of these
            counts[bucket] = counts.get(bucket, 0) + number
        return Histogram(counts=counts, sum=self.sum + other.sum)

    def __sub__(self, before: Histogram) -> Histogram:
        """What was recorded since then: `before` is an earlier state of this one."""
        return Histogram(counts=dict(Counter(self.counts) - Counter(before.counts)), sum=self.sum - before.sum)


class Timings:
    """Durations that are counted now and then, all at once: `Histogram.record` would cost each message ten times more.

    Somebody has to `count` them, every second say. Any thread may, while another one takes note.
    """

    __slots__ = ("_counting", "_histogram", "_noted", "note")

    note: Callable[[float], None]
    """Take note of a duration."""

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._noted = array("f")
        self.note = self._noted.append
        from gevent.monkey import get_original  # here, since not all who read histograms need gevent

        self._counting = get_original("_thread", "allocate_lock")()  # a patched one is not for threads

    def count(self) -> Histogram:
        """All durations until now."""
        with self._counting:
            noted = self._noted[:]  # more may come meanwhile
            del self._noted[: len(noted)]
            if noted:
                counts: dict[int, int] = {}
                for word, number in Counter(memoryview(noted).cast("B").cast("H")[_FIRST::2]).items():
                    counts[word >> 2] = counts.get(word >> 2, 0) + number
                self._histogram += Histogram(counts=counts, sum=sum(noted))
            return self._histogram


def _bucket(seconds: float) -> int:
    """The bucket that a duration is in."""
    [bits] = _BITS.unpack(_FLOAT.pack(seconds))
    return int(bits >> 18)


def _next_bucket(bound: float) -> int:
    """The first bucket that has nothing below this duration."""
    bucket = _bucket(bound)
    return bucket + (_lower(bucket) < bound)


def _lower(bucket: int) -> float:
    """The least duration in a bucket, in seconds."""
    [seconds] = _FLOAT.unpack(_BITS.pack(bucket << 18))
    return float(seconds)
