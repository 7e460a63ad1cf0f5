"""Orders and splits that depend on nothing but ids, a seed and an epoch number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from reprune.core.errors import TaskError
from reprune.task.protocol import Split

Hashes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint64]]
Indices: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]


def hash_ids(ids: Sequence[str]) -> Hashes:
    """One 64-bit number an id, the same on every machine."""
    return np.fromiter((_hash(name) for name in ids), dtype=np.uint64, count=len(ids))


def epoch_order(hashes: Hashes, *, seed: int, epoch: int) -> Indices:
    """A permutation of the examples: a function of (seed, epoch, id), not of where an example lies."""
    keys = _mix(hashes ^ np.uint64(_hash(f"{seed}/{epoch}")))
    # Equal keys (2**-64 a pair) fall back on the id's own hash.
    return np.lexsort((hashes, keys)).astype(np.int64)


def carve(
    ids: Sequence[str], shares: Mapping[Split, float], *, seed: int = 0, rest: Split = "train"
) -> dict[Split, Indices]:
    """About `shares[split]` of the examples for each split, and what is left for `rest`.

    An id keeps its split when other examples come or go. Give the source of each example as its id
    to keep together what belongs together. Raises TaskError if the shares leave nothing.
    """
    if not 0 < sum(shares.values()) < 1 or min(shares.values()) <= 0:
        raise TaskError(
            f"cannot carve shares {dict(shares)}: each must be above 0, their sum below 1",
            where="reprune.task.bases.carve",
        )
    # Salted with the names, so that carving what an earlier carving left is independent of it.
    salt = np.uint64(_hash(f"carve/{seed}/{'/'.join(shares)}"))
    place = _mix(hash_ids(ids) ^ salt) / np.float64(2**64)
    edges = np.cumsum(list(shares.values()))
    part = np.searchsorted(edges, place, side="right")
    named: dict[Split, Indices] = {
        split: np.flatnonzero(part == number) for number, split in enumerate(shares)
    }
    return {rest: np.flatnonzero(part == len(shares)), **named}


def example_seed(identity: np.uint64, *, seed: int, epoch: int) -> int:
    """A seed below 2**63 for one example's augmentation."""
    mixed = _mix(np.array([identity ^ np.uint64(_hash(f"augment/{seed}/{epoch}"))]))
    return int(mixed[0]) >> 1


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that scatters close numbers."""
    mixed: Hashes = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
