"""Quality against measured latency over the generations that the registry remembers, this one last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reprune.core.artifacts import Outcome, VerdictSummary
from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.metrics import drop
from reprune.report.phrases import Phrase
from reprune.report.sections import Section

MOST = 40
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 700.0, 16.0, 270.0


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One generation against its own dense parent. `drop` is what its first metric lost; `mine` is this
    one, `champion` the one that serves.
    """

    name: str
    outcome: Outcome
    promoted: bool
    ratio: float | None
    drop: float | None
    mine: bool = False
    champion: bool = False


def judged(facts: ReportFacts) -> tuple[Judged, ...]:
    """The last generations, oldest first, and this one; empty where none came before."""
    history = facts.previous.history if facts.previous is not None else ()
    if not history:
        return ()
    return (*(_before(one, facts) for one in history[-MOST:]), _this(facts))


def front(points: tuple[Judged, ...]) -> tuple[Judged, ...]:
    """Those that no other one beats in both, by growing ratio; each loses less than the one before."""
    placed = [one for one in points if one.ratio is not None and one.drop is not None]
    ordered = sorted(placed, key=lambda one: (one.ratio or 0.0, one.drop or 0.0))
    found: list[Judged] = []
    for one in ordered:
        if not found or (one.drop or 0.0) < (found[-1].drop or 0.0):
            found.append(one)
    return tuple(found)


def generations_section(facts: ReportFacts) -> Section | None:
    """None for the first generation."""
    points = judged(facts)
    if not points:
        return None
    figure = _figure(points)
    return Section(
        key="generations",
        title="Over the generations",
        lead=f"The last {words.plural(len(points) - 1, 'judged generation')} in the registry and this "
        "one, each against its own dense parent.",
        content=(_table(points) if figure is None else svg.framed(figure),),
    )


def since_last(facts: ReportFacts) -> list[Phrase]:
    """What changed since the generation that was judged last; nothing for the first one."""
    points = judged(facts)
    if not points:
        return []
    last, this = points[-2:]
    promoted = ", promoted" if last.promoted else ""
    told = [
        f"{what} {_or_dash(was, show)} → {_or_dash(now, show)}"
        for what, was, now, show in (
            ("latency", last.ratio, this.ratio, words.ratio),
            ("first metric", last.drop, this.drop, _lost),
        )
        if was is not None or now is not None
    ]
    against = f"; each against its own dense parent: {', '.join(told)}" if told else ""
    outcome = words.WORD[last.outcome].lower()
    return [(f"The last one judged was {last.name} ({outcome}{promoted}){against}.",)]


def _before(one: VerdictSummary, facts: ReportFacts) -> Judged:
    champion = facts.verdict.champion
    return Judged(
        name=f"{words.version(one.compressed_version)} of dense {words.version(one.dense_version)}",
        outcome=one.outcome,
        promoted=one.promoted,
        ratio=one.latency_ratio,
        drop=one.quality_drop,
        champion=champion is not None and champion.version == one.compressed_version,
    )


def _this(facts: ReportFacts) -> Judged:
    """By the same rules as a receipt tells it: the first latency rule, the first metric by name."""
    parents = [one for one in facts.judgement.rules if words.is_parent(one)]
    speed = [one.change for one in parents if one.rule == "latency.vs_parent"]
    quality = sorted(
        (one for one in parents if words.family(one) == "quality" and one.change is not None),
        key=words.metric,
    )
    return Judged(
        name=f"this one of dense {words.version(facts.verdict.dense_version)}",
        outcome=facts.judgement.outcome,
        promoted=False,
        ratio=speed[0] if speed else None,
        drop=drop(quality[0]) if quality else None,
        mine=True,
    )


def _figure(points: tuple[Judged, ...]) -> svg.Figure | None:
    """None where fewer than two generations have both numbers."""
    placed = [one for one in points if one.ratio is not None and one.drop is not None]
    if len(placed) < 2:
        return None
    ratios, drops = [one.ratio or 0.0 for one in placed], [one.drop or 0.0 for one in placed]
    x = _scale(ratios, _LEFT + 14, _RIGHT - 14)
    y = _scale(drops, _TOP + 14, _BOTTOM - 14)
    best = front(points)
    marks = [
        svg.y_axis(y, _LEFT, _RIGHT, [(v, words.points(-v)) for v in svg.ticks(y.low, y.high, 4)]),
        svg.x_axis(x, _TOP, _BOTTOM, lambda value: f"{words.TIMES}{value:g}"),
        svg.label(
            (_LEFT + _RIGHT) / 2, _BOTTOM + 36, "latency, share of the dense parent's", "tick mid"
        ),
        svg.path(((x.at(o.ratio or 0.0), y.at(o.drop or 0.0)) for o in best), "curve faint"),
        *(_mark(one, x, y) for one in placed),
    ]
    return svg.Figure(
        key="generations",
        title="Quality against measured latency",
        description=f"{len(placed)} generations; the best that nothing beats in both: "
        + words.listing([one.name for one in best]),
        how="Further left is faster, higher lost less. The dotted line joins the generations that no "
        "other one beats in both; the shape of a mark is its outcome, and a ring around it is this one.",
        height=_BOTTOM + 46,
        marks=tuple(marks),
        numbers=_table(points),
    )


def _mark(one: Judged, x: svg.Scale, y: svg.Scale) -> Safe:
    at, up = x.at(one.ratio or 0.0), y.at(one.drop or 0.0)
    ring = tag("circle", cx=at, cy=up, r=11, class_="ring") if one.mine else Safe("")
    told = f"{one.name}: {words.WORD[one.outcome]}"
    near = at > (_LEFT + _RIGHT) / 2
    name = svg.label(at - 15 if near else at + 15, up + 4, one.name, "tick end" if near else "tick")
    shown = name if one.mine or one.champion else Safe("")
    return tag("g", tag("title", esc(told)), ring, svg.mark(at, up, one.outcome), shown)


def _scale(values: list[float], start: float, end: float) -> svg.Scale:
    """From the least to the greatest, with room at both ends."""
    pad = 0.08 * (max(values) - min(values)) or 0.01
    return svg.Scale(low=min(values) - pad, high=max(values) + pad, start=start, end=end)


def _lost(drop: float) -> str:
    return words.points(-drop)


def _or_dash(value: float | None, show: Callable[[float], str]) -> str:
    return words.EN_DASH if value is None else show(value)


def _table(points: tuple[Judged, ...]) -> Safe:
    rows = [
        [
            tag("bdi", esc(f"{one.name}, the champion" if one.champion else one.name, 90)),
            tag("span", esc(words.WORD[one.outcome]), class_=f"chip {one.outcome}"),
            esc("yes" if one.promoted else words.EN_DASH if one.mine else "no"),
            esc(_or_dash(one.ratio, words.ratio)),
            esc(_or_dash(one.drop, _lost)),
        ]
        for one in reversed(points)
    ]
    head = ["Generation", "Outcome", "Promoted", "Latency", "First metric"]
    return html_table("Generations, the newest first", head, rows, numbers=3)
