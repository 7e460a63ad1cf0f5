"""An earlier generation's table, where it still holds: a few of the cuts it was made from, timed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from random import Random
from statistics import median

import msgspec
from msgspec.structs import replace

from reprune.compress.tables.looking import Begun, Look, completed
from reprune.compress.tables.sites import Lengths, Site
from reprune.compress.tables.table import OperatorTable, TableKey, TimedCut
from reprune.core.artifacts import CutCheck, TimesReuse
from reprune.core.documents import digest_of
from reprune.core.params import TableParams, Target

# One of so many cuts is timed again, and at most so many: the first is the one that saves most, in which
# most layers are far from their full widths; the others are drawn anew in every generation.
ONE_OF, MOST = 8, 3
# Two looks at one engine differ by some 4 % where other work shares the machine, so two ratios of looks by
# up to 6 % as a rule; another kernel or driver moves the layers that it runs by far more than this. A plan
# that rests on a table is timed and corrected whatever the table says.
TOLERANCE = 0.1
# What of a target says where a step runs, or what is measured beside, and nothing about times.
ELSEWHERE = ("machine", "throughput_batch_sizes", "rebuilt", "run", "kit")


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The champion's table, of the Profile with the digest `source`; it would be `age` generations old here.
    `seed` is this generation's.
    """

    table: OperatorTable
    source: str
    age: int
    tolerance: float
    seed: int


def knobs_digest(target: Target, params: TableParams) -> str:
    """Names all knobs that a table depends on and its key does not hold."""
    told = {
        name: value for name, value in msgspec.to_builtins(target).items() if name not in ELSEWHERE
    }
    return digest_of([told, msgspec.to_builtins(params)])


def taken_over(
    begun: Begun, earlier: Earlier | str, knobs: str, builds: int, dense_us: float
) -> tuple[OperatorTable, TimesReuse]:
    """The earlier table, its latencies scaled to today's of the dense model, if it answers the same question
    and the cuts that are timed again come out as they did; else one that is measured, with why. What
    was looked at for the check counts among its looks.

    An `earlier` in words says why there is none. Raises BuildError.
    """
    why = earlier if isinstance(earlier, str) else strange(earlier.table, begun, knobs)
    checked: tuple[CutCheck, ...] = ()
    if not isinstance(earlier, str) and not why:
        old = earlier.table
        checked = tuple(_checked(begun, old, cut) for cut in cuts_to_check(old.cuts, earlier.seed))
        off = [check for check in checked if check.off > earlier.tolerance]
        if not off:
            reuse = TimesReuse(
                how="reused",
                why=_held(checked, len(old.cuts)),
                age=earlier.age,
                source=earlier.source,
                checked=checked,
                full_builds=old.builds,
            )
            return _scaled(old, dense_us), reuse
        why = (
            f"{len(off)} of {len(checked)} of its cuts, timed again, came out up to "
            f"{max(check.off for check in off):.0%} off what they were ({earlier.tolerance:.0%} are allowed)"
        )
    table = completed(begun, builds, dense_us)
    return (
        replace(table, knobs=knobs),
        TimesReuse(how="measured", why=why, checked=checked, full_builds=table.builds),
    )


def strange(table: OperatorTable, begun: Begun, knobs: str) -> str:
    """Why the table answers another question than this one, in words; "" where it does not."""
    if not table.knobs or not table.cuts:
        return "the champion's table does not say how it was measured"
    if table.key != begun.key:
        return _other_key(table.key, begun.key)
    if table.knobs != knobs:
        return "the knobs of the target or of profile.tables are others than the champion's"
    return "" if _whole(table, begun) else "the champion's table contradicts its own key"


def _other_key(old: TableKey, key: TableKey) -> str:
    if old.machine_kind != key.machine_kind:
        return "the champion's table is of another kind of machine"
    if (old.runtime, old.version) != (key.runtime, key.version):
        return (
            f"the champion's table is of {old.runtime} {old.version}, here runs "
            f"{key.runtime} {key.version}"
        )
    for name in ("precision", "device", "batch_size", "threads", "inputs"):
        if getattr(old, name) != getattr(key, name):
            return f"the champion's table is of another target ({name.replace('_', ' ')})"
    return "the architecture is another than the champion's, or its operators are"


def _whole(table: OperatorTable, begun: Begun) -> bool:
    """Whether the table holds what its key says: it comes from a registry, and cuts are made from it."""
    times = {one.question: one.points for one in table.times}
    known = all(
        any((point.inputs, point.outputs) == site.full for point in times.get(site.question, ()))
        for site in table.sites
    )
    groups = {group.name: group.width for group in begun.book.subject.groups}
    possible = all(
        cut.whole > 0.0
        and all(0 < width <= groups.get(name, 0) for name, width in cut.widths.items())
        for cut in table.cuts
    )
    numbers = [table.dense_us, *(point.us for points in times.values() for point in points)]
    sane = table.dense_us > 0.0 and all(isfinite(us) and us >= 0.0 for us in numbers)
    same = table.sites == begun.sites and times.keys() == {site.question for site in table.sites}
    return known and possible and sane and same


def cuts_to_check(cuts: Sequence[TimedCut], seed: int) -> tuple[TimedCut, ...]:
    """The cut that saves most, and others at random by `seed`: one of ONE_OF in all, at least one."""
    ranked = sorted(cuts, key=lambda cut: (cut.whole, sorted(cut.widths.items())))
    count = min(max(1, round(len(cuts) / ONE_OF)), MOST)
    return (*ranked[:1], *Random(seed).sample(ranked[1:], count - 1))


def _checked(begun: Begun, old: OperatorTable, cut: TimedCut) -> CutCheck:
    look = begun.book.look(cut.widths, ", a check of the champion's")
    return CutCheck(
        widths=cut.widths,
        before=cut.whole,
        now=_rounded(look.seen.whole),
        moved=_rounded(_moved(begun, old, look)),
    )


def _moved(begun: Begun, old: OperatorTable, look: Look) -> float:
    """By what share of their time the layers' times moved, each as a share of the dense model's sum."""
    grids = old.grids()
    dense = begun.book.look({}).seen.shares
    whole_now = sum(dense.get(site.layer, 0.0) for site in begun.sites)
    whole_then = sum(grids[site.question](site.full) for site in begun.sites)
    places = Counter((site.question, site.lengths(look.widths)) for site in begun.sites)
    gap = total = 0.0
    for (question, lengths), count in places.items():
        then = grids[question](lengths) / whole_then
        now = _median_share(begun.sites, look, question, lengths) / whole_now
        gap += count * abs(now - then)
        total += count * then
    return gap / total


def _median_share(sites: Sequence[Site], look: Look, question: str, lengths: Lengths) -> float:
    return median(
        look.seen.shares.get(site.layer, 0.0)
        for site in sites
        if site.question == question and site.lengths(look.widths) == lengths
    )


def _scaled(table: OperatorTable, dense_us: float) -> OperatorTable:
    """The same shares of the dense model's latency, which is `dense_us` now."""
    level = dense_us / table.dense_us
    return replace(
        table,
        dense_us=round(dense_us, 3),
        constant_us=round(level * table.constant_us, 4),
        factor=round(level * table.factor, 6),
    )


def _held(checked: Sequence[CutCheck], of: int) -> str:
    most = max(check.off for check in checked)
    return (
        f"{len(checked)} of the {of} cuts that it was made from, timed again, came out within "
        f"{most:.1%} of what they were"
    )


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
