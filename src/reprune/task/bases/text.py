"""Short texts to one of several classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from reprune.task.bases.classification import Classification
from reprune.task.bases.order import hash_ids

_TOKEN = re.compile(r"\w+|[^\w\s]")

Tokens = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class TextClassification(Classification):
    """As Classification, with two inputs: token numbers (N, L) int64 and their mask (N, L) float32."""

    input_names: Sequence[str] = ("ids", "mask")


def hash_tokens(texts: Sequence[str], *, buckets: int, length: int) -> tuple[Tokens, Mask]:
    """Token numbers 1..buckets-1 by hash, 0 where there is none, and a mask that is 1 where there is one.

    Words and signs, lower case, the first `length` of each text. No vocabulary is kept: the numbers
    do not change when texts are added.
    """
    tokens = np.zeros((len(texts), length), dtype=np.int64)
    mask = np.zeros((len(texts), length), dtype=np.float32)
    for row, text in enumerate(texts):
        words = _TOKEN.findall(text.lower())[:length]
        tokens[row, : len(words)] = 1 + hash_ids(words) % np.uint64(buckets - 1)
        mask[row, : len(words)] = 1
    return tokens, mask
