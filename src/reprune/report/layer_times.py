"""Which layers take the time, in the dense model's engine and in the candidate's, on each target."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from reprune.core.artifacts import OperatorShares, OperatorTime
from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table

MOST_DRAWN = 14
MOST_ROWS = 300
ELSEWHERE = "outside the layers"


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """One layer's time and its share of all operators' time, dense and candidate; None where the runtime
    names no operator after it.
    """

    layer: str
    before_us: float | None
    after_us: float | None
    before: float | None
    after: float | None

    @property
    def most(self) -> float:
        return max(self.before or 0.0, self.after or 0.0)


def layer_times(facts: ReportFacts, target: str) -> tuple[LayerTimes, ...]:
    """The layers of one target in the model's order, what belongs to none last; empty where the runtime
    told no operators of both models.
    """
    told = facts.operators.get(target, OperatorShares())
    if not {"dense", "candidate"} <= told.arms.keys():
        return ()
    known = _known(facts)
    before, after = (_by_layer(told.arms[arm], known) for arm in ("dense", "candidate"))
    if not (before.keys() | after.keys()) & known.keys():
        return ()
    order = [*known, ELSEWHERE]
    totals = [sum(found.values()) or 1.0 for found in (before, after)]
    return tuple(
        LayerTimes(
            layer=name,
            before_us=before.get(name),
            after_us=after.get(name),
            before=before[name] / totals[0] if name in before else None,
            after=after[name] / totals[1] if name in after else None,
        )
        for name in order
        if name in before or name in after
    )


def shares_of(facts: ReportFacts) -> dict[str, LayerTimes]:
    """By layer, on the first target whose runtime tells; empty where none does."""
    for target in facts.operators:
        found = layer_times(facts, target)
        if found:
            return {one.layer: one for one in found}
    return {}


def layer_time_figures(facts: ReportFacts) -> Iterator[svg.Figure]:
    """For each target that tells, the layers that take most time, before and after."""
    for target in facts.operators:
        found = layer_times(facts, target)
        if found:
            yield _figure(target, found)


def untold(facts: ReportFacts) -> Iterator[str]:
    """A sentence for each target of which times by layer are not known, with the reason."""
    for target, told in facts.operators.items():
        if told.why:
            yield f"{target}: no time by layer, because {told.why}."
        elif not layer_times(facts, target):
            yield f"{target}: the runtime's operators cannot be told apart by layer."


def _known(facts: ReportFacts) -> dict[str, None]:
    """Names of layers, in the model's order."""
    names = [layer.layer for profile in facts.profiles[:1] for layer in profile.layers]
    groups = [group.group for group in facts.plan.groups] if facts.plan is not None else []
    return dict.fromkeys(name for name in (*names, *groups) if name)


def _by_layer(operators: Sequence[OperatorTime], known: Collection[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in operators:
        parts = re.split(r"[^\w.]+", one.operator)
        layer = max((part for part in parts if part in known), key=len, default=ELSEWHERE)
        found[layer] = found.get(layer, 0.0) + one.median_us
    return found


def _figure(target: str, layers: Sequence[LayerTimes]) -> svg.Figure:
    most = sorted(layers, key=lambda one: -one.most)[:MOST_DRAWN]
    drawn = [one for one in layers if one in most]
    longest = max(
        [1e-9, *(value for one in drawn for value in (one.before_us, one.after_us) if value)]
    )
    scale = svg.Scale(low=0.0, high=longest, start=230, end=600)
    marks: list[Safe] = []
    for index, one in enumerate(drawn):
        y = 6 + 38.0 * index
        marks.append(svg.label(0, y + 20, one.layer, limit=32))
        for place, css, took, share in (
            (y, "bar", one.before_us, one.before),
            (y + 15, "bar mine", one.after_us, one.after),
        ):
            end = scale.at(took or 0.0)
            marks += [
                svg.box(230, place + 2, end - 230, 12, css),
                svg.label(end + 8, place + 12, _told(took, share), "tick"),
            ]
    less = "" if len(drawn) == len(layers) else f", the {len(drawn)} that take most"
    sums = [
        sum(value or 0.0 for value in values)
        for values in ([one.before_us for one in layers], [one.after_us for one in layers])
    ]
    return svg.Figure(
        key=f"layer-times-{target.encode().hex()}",
        title=f"Where the time goes, before and after, {target}",
        description=f"{words.plural(len(layers), 'layer')}{less}; all operators together took "
        f"{words.milliseconds(sums[0] / 1e3)} in the dense model and "
        f"{words.milliseconds(sums[1] / 1e3)} in the pruned one.",
        how="Upper bars are the dense model, lower bars the pruned one; percentages are shares of each "
        "model's own time. Profiled once, after the measurement: no rule rests on it.",
        height=10 + 38.0 * len(drawn),
        marks=tuple(marks),
        numbers=_table(target, layers),
    )


def _told(took: float | None, share: float | None) -> str:
    if took is None or share is None:
        return "not there"
    return f"{words.milliseconds(took / 1e3)}, {words.percent(share, 0)}"


def _table(target: str, layers: Sequence[LayerTimes]) -> Safe:
    rows = [
        [
            tag("bdi", esc(one.layer, 120)),
            *(_time(value) for value in (one.before_us, one.after_us)),
            *(share_cell(value) for value in (one.before, one.after)),
        ]
        for one in layers[:MOST_ROWS]
    ]
    head = ["Layer", "Dense", "Pruned", "Share, dense", "Share, pruned"]
    return html_table(f"Time by layer on {target}", head, rows, numbers=1)


def _time(took: float | None) -> Safe:
    return esc(words.EN_DASH if took is None else words.milliseconds(took / 1e3))


def share_cell(value: float | None) -> Safe:
    """A share as a percentage, a dash where it is not known."""
    return esc(words.EN_DASH if value is None else words.percent(value, 1))
