"""Figures of the cut: widths before and after, what each cut cost, and how the model recovered."""

from __future__ import annotations

from reprune.core.artifacts import GroupSensitivity, Recovery
from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.layer_times import layer_times, share_cell, shares_of
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.measured import Expected, expected_losses, macs_share, time_share

MOST_GROUPS = 40
MOST_CURVES = 12
MOST_ROWS = 2000
_COLUMNS = 4
_CELL_WIDTH, _CELL_HEIGHT = 205.0, 140.0


def widths_figure(facts: ReportFacts) -> svg.Figure | None:
    """Every group's width before and after, in the model's order. None without a plan."""
    groups = expected_losses(facts.plan, facts.table, facts.surgery)
    if not groups:
        return None
    most = sorted(groups, key=lambda one: one.kept)[:MOST_GROUPS]
    drawn = [one for one in groups if one in most]
    timed = _times(facts)
    marks: list[Safe] = [
        svg.label(572, 14, "channels", "tick"),
        svg.label(664, 14, "kept", "tick"),
        *([svg.label(718, 14, "share of time", "tick")] if timed else []),
    ]
    for index, one in enumerate(drawn):
        y = 20 + 26.0 * index
        marks += [
            svg.label(0, y + 14, one.group, limit=26),
            svg.box(200, y + 2, 360, 16, "before"),
            svg.box(200, y + 2, 360 * one.kept, 16, "bar mine"),
            svg.label(572, y + 14, f"{one.width} → {one.keep}", "value"),
            svg.label(664, y + 14, words.percent(one.kept, 0), "tick"),
            svg.label(718, y + 14, _shares(timed.get(one.group)), "tick"),
        ]
    less = "" if len(drawn) == len(groups) else f", the {len(drawn)} that were cut most"
    return svg.Figure(
        key="widths",
        title="Channels before and after",
        description=f"{len(groups)} coupled groups of channels{less}.",
        how=_how(facts, timed),
        height=26 + 26.0 * len(drawn),
        marks=tuple(marks),
        numbers=_widths_table(facts, groups),
    )


def _times(facts: ReportFacts) -> dict[str, tuple[float | None, float | None]]:
    """By group, the share of time in the layer that it is named after, dense and candidate. Where the
    candidate was not profiled, the dense model's alone; empty where no runtime tells.
    """
    both = {name: (one.before, one.after) for name, one in shares_of(facts).items()}
    if both or facts.plan is None:
        return both
    found = {one.group: time_share(one.group, facts.profiles) for one in facts.plan.groups}
    return {name: (share, None) for name, share in found.items() if share is not None}


def _how(facts: ReportFacts, timed: dict[str, tuple[float | None, float | None]]) -> str:
    said = "The outline is the dense width, the filled part what was kept"
    if not timed:
        return f"{said}. No runtime here tells how long a layer takes."
    if shares_of(facts):
        target = next(target for target in facts.operators if layer_times(facts, target))
        return f"{said}; at the right the layer's share of its model's time on {target}, before → after."
    return f"{said}; at the right the layer's share of the dense model's measured time."


def _shares(times: tuple[float | None, float | None] | None) -> str:
    if times is None or times == (None, None):
        return ""
    told = [words.EN_DASH if one is None else words.percent(one, 0) for one in times]
    return told[0] if times[1] is None else " → ".join(told)


def _widths_table(facts: ReportFacts, groups: tuple[Expected, ...]) -> Safe:
    timed = _times(facts)
    rows = [
        [
            tag("bdi", esc(one.group, 120)),
            esc(one.width),
            esc(one.planned),
            esc(one.keep if facts.surgery is not None else words.EN_DASH),
            esc(words.percent(one.kept, 0)),
            *(share_cell(share) for share in timed.get(one.group, (None, None))),
            share_cell(macs_share(one.group, facts.profiles)),
            esc("not measured" if one.loss is None else words.signed(one.loss, 2)),
        ]
        for one in groups[:MOST_ROWS]
    ]
    head = ["Group", "Before", "Planned", "Cut to", "Kept", "Time, dense", "Time, pruned"]
    head += ["Dense MACs", "Loss expected of this cut alone"]
    caption = f"Channels of each group{_left_out(len(rows), len(groups))}"
    return html_table(caption, head, rows, numbers=1)


def _left_out(shown: int, whole: int) -> str:
    """What a caption says where a table would fill a book."""
    return "" if shown == whole else f"; the first {words.count(shown)} of {words.count(whole)}"


def sensitivity_figure(facts: ReportFacts) -> svg.Figure | None:
    """The loss that each group's cuts add, the most sensitive groups first. None without a table."""
    table = facts.table
    if table is None or not any(group.cuts for group in table.groups):
        return None
    ordered = sorted(
        (group for group in table.groups if group.cuts),
        key=lambda one: -max(cut.loss_increase for cut in one.cuts),
    )
    drawn = ordered[:MOST_CURVES]
    top = max(cut.loss_increase + 2 * cut.standard_error for one in drawn for cut in one.cuts)
    low = min([0.0, *(c.loss_increase - 2 * c.standard_error for one in drawn for c in one.cuts)])
    planned = {one.group: one.keep for one in facts.plan.groups} if facts.plan is not None else {}
    marks = [
        _curve(one, index, (low, top or 1e-9), planned.get(one.group))
        for index, one in enumerate(drawn)
    ]
    rows = -(-len(drawn) // _COLUMNS)
    return svg.Figure(
        key="sensitivity",
        title="What each cut costs",
        description=f"The {len(drawn)} most sensitive of {len(ordered)} groups: the rise in loss "
        "when only that group is cut.",
        how="From left to right fewer channels are left; the higher, the more the loss rises. All "
        "panels share one scale; bars are two standard errors; the dashed line is the plan's choice.",
        height=_CELL_HEIGHT * rows,
        marks=tuple(marks),
        numbers=_sensitivity_table(ordered),
    )


def _curve(
    group: GroupSensitivity, index: int, reach: tuple[float, float], planned: int | None
) -> Safe:
    """One panel: the loss added over the share of channels that is removed."""
    left = _CELL_WIDTH * (index % _COLUMNS)
    top = _CELL_HEIGHT * (index // _COLUMNS)
    x = svg.Scale(low=0.0, high=1.0, start=left + 40, end=left + _CELL_WIDTH - 14)
    y = svg.Scale(low=reach[0], high=reach[1], start=top + 112, end=top + 28)
    points = [(0.0, 0.0, 0.0)] + [
        (1 - cut.keep / group.width, cut.loss_increase, cut.standard_error)
        for cut in sorted(group.cuts, key=lambda cut: -cut.keep)
    ]
    marks = [
        svg.label(left + 40, top + 16, group.group, "strong", limit=19),
        svg.y_axis(y, x.start, x.end, [(v, f"{v:g}") for v in svg.ticks(*reach, 3)]),
        svg.label(x.start, top + 130, "0 %", "tick mid"),
        svg.label(x.end, top + 130, "all", "tick end"),
        svg.label((x.start + x.end) / 2, top + 130, "removed", "tick mid"),
    ]
    if planned is not None:
        at = x.at(1 - planned / group.width)
        marks.append(svg.line(at, y.end, at, y.start, "limit"))
    marks.append(svg.path(((x.at(share), y.at(loss)) for share, loss, _ in points), "curve"))
    for share, loss, error in points[1:]:
        marks += [
            svg.line(
                x.at(share),
                y.at(loss - 2 * error),
                x.at(share),
                y.at(loss + 2 * error),
                "whisker plain",
            ),
            tag("circle", cx=x.at(share), cy=y.at(loss), r=3.5, class_="dot"),
        ]
    return tag("g", *marks)


def _sensitivity_table(groups: list[GroupSensitivity]) -> Safe:
    cuts = [(group, cut) for group in groups for cut in group.cuts]
    rows = [
        [
            tag("bdi", esc(group.group, 120)),
            esc(f"{group.width} → {cut.keep}"),
            esc(words.signed(cut.loss_increase)),
            esc(words.number(cut.standard_error, 2)),
            esc(words.big(cut.macs)),
            esc(words.big(cut.params)),
        ]
        for group, cut in cuts[:MOST_ROWS]
    ]
    head = ["Group", "Channels", "Loss added", "Standard error", "MACs then", "Parameters then"]
    caption = f"Loss added by each cut{_left_out(len(rows), len(cuts))}"
    return html_table(caption, head, rows, numbers=1)


def recovery_figure(recovery: Recovery) -> svg.Figure | None:
    """The losses while the cut model learnt again. None where it did not."""
    epochs = recovery.epochs
    if not epochs:
        return None
    losses = [loss for one in epochs for loss in (one.train_loss, one.tune_loss)]
    high = max(losses) * 1.06
    x = svg.Scale(low=epochs[0].epoch, high=epochs[-1].epoch, start=70, end=690)
    y = svg.Scale(low=min(0.0, *losses), high=high, start=220, end=16)
    marks = [
        svg.y_axis(y, 70, 690, [(v, f"{v:g}") for v in svg.ticks(y.low, high)]),
        *(svg.label(x.at(v), 240, f"{v:g}", "tick mid") for v in _epoch_ticks(recovery)),
        svg.label(380, 262, "epoch", "tick mid"),
    ]
    kept = "the model as it was cut was kept"
    if recovery.best_epoch in [one.epoch for one in epochs]:
        kept = f"epoch {recovery.best_epoch} was kept"
        at = x.at(recovery.best_epoch)
        marks += [svg.line(at, 16, at, 220, "limit"), svg.label(at - 8, 28, "kept", "tick end")]
    marks += _loss_lines(recovery, x, y)
    return svg.Figure(
        key="recovery",
        title="Recovery after the cut",
        description=f"{words.plural(len(epochs), 'epoch')}; {kept}.",
        how="Lower is better. The two losses are not the same quantity where a teacher's answers "
        "are part of the training loss; the dashed line is the epoch that was kept.",
        height=272,
        marks=tuple(marks),
        numbers=_recovery_table(recovery),
    )


def _loss_lines(recovery: Recovery, x: svg.Scale, y: svg.Scale) -> list[Safe]:
    """The two curves, each named at its end; names that would overlap are moved apart."""
    epochs = recovery.epochs
    marks: list[Safe] = []
    ends: list[tuple[float, str]] = []
    for name, css, values in (
        ("train", "curve faint", [one.train_loss for one in epochs]),
        ("tune", "curve", [one.tune_loss for one in epochs]),
    ):
        points = [(x.at(e.epoch), y.at(v)) for e, v in zip(epochs, values, strict=True)]
        marks.append(svg.path(points, css))
        marks += [
            tag("circle", cx=px, cy=py, r=3.5, class_="dot") for px, py in points if name == "tune"
        ]
        ends.append((points[-1][1], name))
    below = -20.0
    for place, name in sorted(ends):
        below = max(place, below + 16)
        marks.append(
            svg.label(700, below + 4, f"{name} loss", "strong" if name == "tune" else "tick")
        )
    return marks


def _recovery_table(recovery: Recovery) -> Safe:
    rows = [
        [
            esc(one.epoch),
            esc(words.number(one.train_loss, 4)),
            esc(words.number(one.tune_loss, 4)),
            esc(words.number(one.learning_rate)),
            esc("kept" if one.epoch == recovery.best_epoch else ""),
        ]
        for one in recovery.epochs
    ]
    head = ["Epoch", "Train loss", "Tune loss", "Learning rate", ""]
    return html_table("Recovery by epoch", head, rows, numbers=0)


def _epoch_ticks(recovery: Recovery) -> list[float]:
    first, last = recovery.epochs[0].epoch, recovery.epochs[-1].epoch
    return [v for v in svg.ticks(first, last, min(8, max(1, last - first))) if v == round(v)]
