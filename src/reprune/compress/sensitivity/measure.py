"""What each group of channels is worth: the loss on `tune` when that group alone is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reprune.compress.sensitivity.calibrated import observe
from reprune.compress.sensitivity.full import conclude_all, observe_all
from reprune.compress.sensitivity.merging import merge
from reprune.compress.sensitivity.observed import Observed
from reprune.compress.sensitivity.shards import ALL
from reprune.compress.sensitivity.subject import Measured, Removable, Subject, keeps, removables

if TYPE_CHECKING:
    from reprune.core.params import PruneParams, SensitivityParams

__all__ = ["Measured", "Removable", "Subject", "conclude", "keeps", "look", "measure", "removables"]


def measure(
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
) -> Measured:
    """Every group's loss increase at every cut of `params.cuts`, and every block's, by `params.method`.

    What is finished is written to `work`; a run that was killed goes on from there and gives the
    identical result. Raises CompressionError for a dense model whose loss is not finite.
    """
    seen = look(subject, params, prune, seed=seed, work=work, say=say)
    return conclude(subject, params, [seen])


def look(  # noqa: PLR0913  what a measurement depends on, none of it a part of another
    subject: Subject,
    params: SensitivityParams,
    prune: PruneParams,
    *,
    seed: int,
    work: Path,
    say: Callable[[str], None],
    shard: tuple[int, int] = ALL,
) -> Observed:
    """What shard i of n of `measure` looks at: groups, then blocks, number i mod n."""
    by_method = observe_all if params.method == "full" else observe
    return by_method(subject, params, prune, seed=seed, work=work, say=say, shard=shard)


def conclude(subject: Subject, params: SensitivityParams, parts: Sequence[Observed]) -> Measured:
    """What `measure` gives, to the bit, from what all its shards saw, in any order.

    Raises CompressionError for parts that are not those of one measurement.
    """
    by_method = conclude_all if params.method == "full" else merge
    return by_method(subject, params, parts)
