"""Which sample comes when: endless shuffled passes over n samples as a pure function of the place in the stream.

No state: resuming is remembering one number, and any process can compute any place. Memory does not grow with n.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

ROUNDS = 6


def sample_at(place: int, n: int, *, seed: int, stream: str = "") -> tuple[int, int]:
    """(epoch, sample) at a place 0, 1, 2, ... of the stream: every epoch holds each of 0..n-1 exactly once.

    stream: a name; streams of different names are shuffled differently.

    Raises:
        ValueError: n below 1 or a negative place.
    """
    if n < 1 or place < 0:
        raise ValueError(f"place={place}, n={n}; need a place from 0 and at least one sample")
    epoch, index = divmod(place, n)
    return epoch, permuted(index, n, key=_key(seed, stream, epoch))


def permuted(index: int, n: int, *, key: int) -> int:
    """Where a keyed permutation of 0..n-1 sends `index`: a Feistel network on the next even number of bits, walked
    until it lands inside (at most a few steps on average: the range is less than four times n)."""
    half = max((n - 1).bit_length() + 1, 2) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (_mix(right, key + turn) & mask)
        index = left << half | right
        if index < n:
            return index


def _mix(value: int, key: int) -> int:
    """64 bits that depend on every bit of both (the finaliser of splitmix64)."""
    x = (value * 0x9E3779B97F4A7C15 + key * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


@lru_cache(maxsize=64)
def _key(seed: int, stream: str, epoch: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{stream}/{epoch}".encode(), digest_size=7).digest(), "big") * ROUNDS
