"""Whether generations get harder to compress, when the gate would stop them, and which layers are cut
otherwise: the same facts and sentences in the report and in `reprune history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from msgspec.structs import replace

from reprune.core.artifacts import Asked, block_key
from reprune.judge.trend import ALPHA, Trend, trend
from reprune.registry.generations import Generation, Rising
from reprune.report import words
from reprune.report.cells import UNITS
from reprune.report.markup import visible

MOST_LAYERS = 5
# How a block is named among the groups.
BLOCK = block_key("")
# A rise is worth saying when the gate would stop it where that is within so many generations.
SOON = 8


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One generation's figures: what each metric lost, the latency by target, the predicted rise in loss, and
    the share of each group that is left. Its plan was `asked` that; None where nobody knows.
    """

    drops: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    rise: float | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    asked: Asked | None = None


def risings(
    laps: Sequence[Lap], rooms: Mapping[str, float], units: Mapping[str, str]
) -> tuple[Rising, ...]:
    """Every trend of the laps, oldest first, that chance seldom makes; none below five. It begins where plans
    were last asked something else, as far as that is known: a tighter budget makes no model harder.

    `rooms` says where the gate would stop (see registry.figures), `units` what a metric is in. Metrics,
    targets and groups share the error rate among themselves (Bonferroni): there may be many.
    """
    laps, short = _asked_alike(laps)
    found = (
        *_worse("quality", [lap.drops for lap in laps], rooms, units),
        *_worse(
            "predicted loss",
            [{} if lap.rise is None else {"": lap.rise} for lap in laps],
            {},
            {"": "loss"},
        ),
        *_worse("latency", [lap.ratios for lap in laps], rooms, {}),
        *_groups([lap.kept for lap in laps]),
    )
    return tuple(replace(one, cut_short=short) for one in found)


def _asked_alike(laps: Sequence[Lap]) -> tuple[Sequence[Lap], bool]:
    """The last laps, none of which is known to have been asked something else than another; whether there are
    laps before them.
    """
    asked = None
    for place in range(len(laps) - 1, -1, -1):
        one = laps[place].asked
        if asked is not None and one is not None and one != asked:
            return laps[place + 1 :], True
        asked = asked or one
    return laps, False


def trends_of(newest_first: Sequence[Generation]) -> tuple[Rising, ...]:
    """The trends of a history. Of one dense version the last verdict counts."""
    judged = {
        each.dense[0]: each
        for each in reversed(newest_first)
        if each.kind == "judged" and each.dense and not each.second and each.signed is not False
    }
    generations = list(judged.values())
    if not generations:
        return ()
    units = {
        each.quality.rule.removesuffix(".vs_parent"): each.quality.unit
        for each in generations
        if each.quality is not None
    }
    named = next((name for name in reversed(units) if name), "")
    targets = {target for each in generations for target in each.ratios}
    alone = targets.pop() if len(targets) == 1 else ""
    laps = [_lap(each, named, alone) for each in generations]
    return risings(laps, generations[-1].rooms, units)


def trend_words(found: Iterable[Rising]) -> list[str]:
    """A sentence for each; of groups that are cut otherwise those that moved most."""
    known = list(found)
    groups = [one for one in known if one.what == "group"]
    groups.sort(key=lambda one: -abs(one.last - one.first))
    others = [one for one in known if one.what != "group"]
    return [*(_harder(one) for one in others), *(_otherwise(one) for one in groups[:MOST_LAYERS])]


def _lap(each: Generation, named: str, target: str) -> Lap:
    """A generation whose verdict cannot be read has its receipt's two figures: of the metric `named`, and of
    the only `target`.
    """
    quality, latency, made = each.quality, each.latency, each.made
    drops, ratios = each.drops, each.ratios
    if not drops and quality is not None:
        drops = {quality.rule.removesuffix(".vs_parent") or named: quality.loss}
    if not ratios and latency is not None:
        ratios = {target: latency.change}
    return Lap(
        drops=drops,
        ratios=ratios,
        rise=None if made is None else made.rise,
        kept={} if made is None else made.kept,
        asked=None if made is None else made.question,
    )


def _worse(
    what: str,
    laps: Sequence[Mapping[str, float]],
    rooms: Mapping[str, float],
    units: Mapping[str, str],
) -> Iterator[Rising]:
    """Those of the newest lap's figures that rise."""
    newest = next((lap for lap in reversed(laps) if lap), {})
    for name in newest:
        values = [lap[name] for lap in laps if name in lap]
        found = trend(values)
        if found is None or not found.rises or found.p_value > ALPHA / len(newest):
            continue
        latency = what == "latency"
        room = rooms.get(f"latency@{name}" if latency else name)
        yield Rising(
            what=what,  # type: ignore[arg-type]
            name=name,
            unit="ratio" if latency else units.get(name, "share"),
            slope=found.slope,
            p_value=found.p_value,
            of=found.of,
            first=values[0],
            last=values[-1],
            blocks_in=None if room is None else found.generations_to(room),
        )


def _groups(kept: Sequence[Mapping[str, float]]) -> Iterator[Rising]:
    """Blocks are named where they are gone alone: a lap that names other parts left them there."""
    blocks = sorted({name for lap in kept for name in lap if name.startswith(BLOCK)})
    newest = dict.fromkeys(blocks, 1.0) | dict(next((lap for lap in reversed(kept) if lap), {}))
    for name in newest:
        there = {name: 1.0} if name in blocks else {}
        shares = [(there | dict(lap))[name] for lap in kept if name in lap or (there and lap)]
        for sign in (-1.0, 1.0):
            line = trend([sign * share for share in shares])
            if _certain(line, 2 * len(newest)):
                yield Rising(
                    what="group",
                    name=name,
                    unit="share",
                    slope=sign * line.slope,
                    p_value=line.p_value,
                    of=line.of,
                    first=shares[0],
                    last=shares[-1],
                )


def _certain(line: Trend | None, tests: int) -> TypeGuard[Trend]:
    return line is not None and line.slope > 0.0 and line.p_value <= ALPHA / tests


def _harder(one: Rising) -> str:
    name = visible(one.name, 60)
    step = _step(one)
    told = {
        "quality": f"what {name or 'the first metric'} loses rises by {step}",
        "predicted loss": f"the predicted loss rises by {step}",
        "latency": f"the latency{f' on {name}' if name else ''}, as a share of the dense model's, "
        f"rises by {step}",
    }[one.what]
    text = f"Harder to compress: {told} a generation ({one.of} of them{_since(one)}, p = {one.p_value:.2g})"
    if one.blocks_in is None or one.blocks_in > SOON:
        return text
    when = "now" if one.blocks_in == 0 else f"in about {words.plural(one.blocks_in, 'generation')}"
    return f"{text}; if that goes on, the gate stops it {when}"


def _step(one: Rising) -> str:
    if one.unit == "share" or one.what == "latency":
        return words.points(one.slope).removeprefix("+")
    known = UNITS.get(one.unit)
    return known(one.slope) if known else f"{one.slope:.4g}"


def _otherwise(one: Rising) -> str:
    verb = "less" if one.slope < 0.0 else "more"
    how, seen = "wide", f"{words.percent(one.first, 0)} to {words.percent(one.last, 0)}"
    if one.name.startswith(BLOCK):
        how, seen = "often", f"in {one.of} generations"
    why = f"{seen}{_since(one)}, p = {one.p_value:.2g}"
    return f"{visible(one.name, 60)} is left {verb} and {verb} {how} ({why})"


def _since(one: Rising) -> str:
    return ", since plans were last asked something else" if one.cut_short else ""
