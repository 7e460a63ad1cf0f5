"""The examples that changed their answer: how many both ways, and on demand which."""

from __future__ import annotations

from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.measured import Flips, flips

MOST_EXAMPLES = 200


def flips_figure(facts: ReportFacts) -> svg.Figure | None:
    """The examples that changed, both ways. None where records are not right or wrong."""
    found = flips(facts.evidence) if facts.evidence is not None else ()
    if not found:
        return None
    most = max([1, *(n for one in found for n in (one.became_wrong, one.became_right))])
    marks = [
        svg.label(470, 18, "became wrong", "tick end"),
        svg.label(490, 18, "became right", "tick"),
    ]
    for index, one in enumerate(found):
        marks += _flip_row(one, facts, 28 + 46.0 * index, most)
    bottom = 28 + 46.0 * len(found)
    marks.append(svg.line(480, 6, 480, bottom, "zero"))
    return svg.Figure(
        key="flips",
        title="Examples that changed their answer",
        description="; ".join(
            f"against {words.baseline_name(one.baseline, facts)} on {one.target}: {one.became_wrong} "
            f"became wrong, {one.became_right} became right"
            for one in found[:12]
        ),
        how="The same examples through both models. A small net change can hide many flips both ways.",
        height=bottom + 6,
        marks=tuple(marks),
        numbers=_table(facts, found),
    )


def _table(facts: ReportFacts, found: tuple[Flips, ...]) -> Safe:
    rows = [
        [
            tag("bdi", esc(f"{words.baseline_name(one.baseline, facts)}, {one.target}")),
            *(
                esc(words.count(value))
                for value in (one.both_right, one.became_wrong, one.became_right, one.both_wrong)
            ),
            esc(words.points(one.change)),
        ]
        for one in found
    ]
    head = [
        "Baseline, target",
        "Right with both",
        "Became wrong",
        "Became right",
        "Wrong with both",
        "Net",
    ]
    return html_table("Flips", head, rows, numbers=1)


def _flip_row(one: Flips, facts: ReportFacts, y: float, most: int) -> list[Safe]:
    wrong, right = 170 * one.became_wrong / most, 170 * one.became_right / most
    return [
        svg.label(
            0, y + 16, f"against {words.baseline_name(one.baseline, facts)}", "strong", limit=30
        ),
        svg.label(
            0, y + 32, f"{one.target}, {words.count(one.examples)} examples", "tick", limit=38
        ),
        svg.box(480 - wrong, y + 8, wrong, 20, "bar lost"),
        svg.box(480, y + 8, right, 20, "bar won"),
        svg.label(472 - wrong, y + 23, words.count(one.became_wrong), "value end"),
        svg.label(488 + right, y + 23, words.count(one.became_right), "value"),
        svg.label(730, y + 23, words.points(one.change), "value"),
    ]


def changed_tables(facts: ReportFacts) -> list[Safe]:
    """The ids of the examples that changed, for each comparison that the figure draws."""
    if facts.evidence is None:
        return []
    ids = facts.evidence.quality.ids
    found = []
    for one in flips(facts.evidence):
        changed = [(place, "became wrong") for place in one.wrong_at]
        changed += [(place, "became right") for place in one.right_at]
        if changed:
            about = f"{words.baseline_name(one.baseline, facts)}, {one.target}"
            rows = [
                [tag("bdi", esc(ids[at], 120)), esc(how)] for at, how in changed[:MOST_EXAMPLES]
            ]
            left = len(changed) - len(rows)
            more = f"; {left} more are in evidence.json" if left else ""
            listed = html_table(f"Examples that changed against {about}{more}", ["Id", "How"], rows)
            found.append(details(f"Which examples changed against {about}", listed))
    return found
