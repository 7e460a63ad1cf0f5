"""Logistic mixing of adaptive bit predictions, in integers.

Context mixing as in PAQ (M. Mahoney, "Adaptive weighing of context models for lossless data
compression", 2005): each context keeps a probability learnt from what was seen in it; a mixer adds
them up in the logistic domain with weights that are learnt bit by bit. All tables come from integer
arithmetic, so that an encoder and a decoder agree on every machine.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

from reprune.runtimes.compact.arithmetic import ONE, CodeBit

# The logistic domain: ln(p / (1 - p)) in units of 1 / SCALE, within +- REACH.
SCALE = 256
REACH = 11 * SCALE - 1
_FINE = 128  # bits after the point while the tables are made

# A context is trusted by how often it was seen: bits seen up to each of these share a mixing weight.
_TRUST = (0, 1, 3, 7, 15, 31, 63)
_LIMIT = 255
_TRUST_OF = tuple(bisect_left(_TRUST, seen) for seen in range(_LIMIT + 1))
_GRAIN = 6  # bits that a context keeps after the 16 of a probability
_RATE_SHIFT = 16


@cache
def squash_table() -> array[int]:
    """Probability of a one (16 bits) for each point of the logistic domain, from -REACH to REACH."""
    one = 1 << _FINE
    step, term = one, one
    for n in range(1, 40):  # exp(1 / SCALE) by its series
        term //= n * SCALE
        step += term
    up, powers = one, [one]
    for _ in range(REACH):
        up = up * step >> _FINE
        powers.append(up)
    rising = [ONE * power // (power + one) for power in powers]
    falling = [ONE * one // (power + one) for power in reversed(powers[1:])]
    return array("i", (min(max(p, 1), ONE - 1) for p in [*falling, *rising]))


@cache
def stretch_table() -> array[int]:
    """The inverse of `squash_table`, for each 16-bit probability."""
    squashed = squash_table()
    places = (min(bisect_left(squashed, p), 2 * REACH) for p in range(ONE))
    return array("i", (place - REACH for place in places))


class MixedModel:
    """Predicts bits of one kind from several contexts at once and codes them.

    `start` is the probability of a one (16 bits) in a context that was not seen yet. The n-th bit of a
    context moves its probability by 1 / (n + 3), at least by 1 / 258.
    """

    def __init__(self, coder: CodeBit, *, contexts: int, start: int) -> None:
        self._coder = coder
        self._start = start << _GRAIN
        self._slots: list[dict[int, list[int]]] = [{} for _ in range(contexts)]
        self._weights = [[ONE // contexts] * (len(_TRUST) + 1) for _ in range(contexts)]
        self._squash, self._stretch = squash_table(), stretch_table()

    def code(self, bit: int, contexts: Sequence[int]) -> int:
        """Codes `bit` (or decodes it) in these contexts, one number for each, and learns from it."""
        slots, points, weights, total = [], [], [], 0
        for table, context, by_trust in zip(self._slots, contexts, self._weights, strict=True):
            slot = table.get(context)
            if slot is None:
                slot = table[context] = [self._start, 0]
            point, trust = self._stretch[slot[0] >> _GRAIN], _TRUST_OF[slot[1]]
            total += by_trust[trust] * point
            slots.append(slot)
            points.append(point)
            weights.append((by_trust, trust))
        place = min(max(total >> 16, -REACH), REACH) + REACH
        probability = self._squash[place]
        bit = self._coder(bit, probability)
        error = (bit << 16) - probability
        for (by_trust, trust), point in zip(weights, points, strict=True):
            by_trust[trust] += point * error + (1 << (_RATE_SHIFT - 1)) >> _RATE_SHIFT
        goal = (ONE << _GRAIN) - 1 if bit else 0
        for slot in slots:
            slot[0] += (goal - slot[0]) // (slot[1] + 3)
            if slot[1] < _LIMIT:
                slot[1] += 1
        return bit


class PlainModel:
    """Predicts bits from one context each, with multiplications of 16 bits only, as the C decoder does.

    The n-th bit of a context moves its probability by about 1 / (n + 2), at least by 1 / 128.
    """

    def __init__(self, coder: CodeBit, *, contexts: int, start: int) -> None:
        self._coder = coder
        self._probabilities = [start] * contexts
        self._seen = [0] * contexts

    def code(self, bit: int, contexts: Sequence[int]) -> int:
        """As MixedModel.code; only the first context counts."""
        context = contexts[0]
        probability, seen = self._probabilities[context], self._seen[context]
        bit = self._coder(bit, probability)
        share = RECIPROCALS[seen]
        if bit:
            probability += (ONE - 1 - probability) * share >> 16
        else:
            probability -= probability * share >> 16
        self._probabilities[context] = min(max(probability, 32), ONE - 32)
        if seen < len(RECIPROCALS) - 1:
            self._seen[context] = seen + 1
        return bit


# 1 / (n + 2) in 16 bits, to 1 / 128.
RECIPROCALS = tuple(ONE // (seen + 2) for seen in range(127))
