"""`plots/*.csv` for `dvc plots show` and `dvc plots diff`: the figures that people lay over one another."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from reprune.judge.numeric import rounded
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.markup import visible
from reprune.report.slices import ordered

Row: TypeAlias = Sequence[str | float | int]
FOLDER = "plots"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """How `dvc.yaml` declares a file: `x` and `y` are columns of it."""

    name: str
    title: str
    x: str
    y: str
    template: str

    @property
    def path(self) -> str:
        return f"{FOLDER}/{self.name}.csv"


PLOTS = (
    Plot(name="latency", title="Latency", x="ms", y="target", template="bar_horizontal"),
    Plot(
        name="slices",
        title="Quality by slice, points against its baseline",
        x="points",
        y="slice",
        template="bar_horizontal",
    ),
    Plot(name="recovery", title="Recovery: loss on tune", x="epoch", y="loss", template="linear"),
    Plot(name="widths", title="Share kept", x="percent", y="part", template="bar_horizontal"),
)


def render_plots(facts: ReportFacts) -> dict[str, str]:
    """Path to text, for each of PLOTS. What was not measured has no row, and a file without rows its head."""
    rows = {
        "latency": _latency(facts),
        "slices": _slices(facts),
        "recovery": _recovery(facts),
        "widths": _widths(facts),
    }
    return {plot.path: _csv(plot, rows[plot.name]) for plot in PLOTS}


def _csv(plot: Plot, rows: Iterator[Row]) -> str:
    # The column that names a thing comes first, as people read it.
    head = [plot.x, plot.y] if plot.template == "linear" else [plot.y, plot.x]
    text = io.StringIO()
    written = csv.writer(text, lineterminator="\n")
    written.writerow(head)
    written.writerows(rows)
    return text.getvalue()


def _latency(facts: ReportFacts) -> Iterator[Row]:
    """The candidate's median on each target, as the rule against its dense parent measured it."""
    seen = set()
    for one in facts.judgement.rules:
        known = words.family(one) == "latency" and one.candidate_value is not None
        if known and one.target not in seen:
            seen.add(one.target)
            yield visible(one.target or "", 80), rounded(one.candidate_value or 0.0)


def _slices(facts: ReportFacts) -> Iterator[Row]:
    """Of what was judged; a slice that several rules judge is named with each."""
    judged = [one for one in ordered(facts) if one.outcome != "not judged"]
    several = len({(one.rule, one.target) for one in judged}) > 1
    for one in sorted(judged, key=lambda one: (one.slice, one.rule, one.target)):
        about = f", {visible(one.rule, 60)}, {visible(one.target, 60)}" if several else ""
        yield f"{visible(one.slice, 80)}{about}", rounded(100 * one.change)


def _recovery(facts: ReportFacts) -> Iterator[Row]:
    for one in facts.recovery.epochs if facts.recovery is not None else ():
        yield one.epoch, rounded(one.tune_loss)


def _widths(facts: ReportFacts) -> Iterator[Row]:
    if facts.plan is None:
        return
    left = facts.plan.left
    for group in facts.plan.groups:
        if group.group in left:
            yield visible(group.group, 80), rounded(100 * left[group.group])
