"""The examples that changed their answer: how many both ways, and on demand which."""

from __future__ import annotations

from reprune.core.artifacts import ShownExample
from reprune.report import png, svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, join, tag, visible
from reprune.report.markup import table as html_table
from reprune.report.measured import Flips, flips

MOST_EXAMPLES = 200
MOST_SHOWN = 48


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
            f"against {words.baseline_name(one.baseline, facts)} on {one.where}: {one.became_wrong} "
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
            tag("bdi", esc(f"{words.baseline_name(one.baseline, facts)}, {one.where}")),
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
            0, y + 32, f"{one.where}, {words.count(one.examples)} examples", "tick", limit=38
        ),
        svg.box(480 - wrong, y + 8, wrong, 20, "bar lost"),
        svg.box(480, y + 8, right, 20, "bar won"),
        svg.label(472 - wrong, y + 23, words.count(one.became_wrong), "value end"),
        svg.label(488 + right, y + 23, words.count(one.became_right), "value"),
        svg.label(730, y + 23, words.points(one.change), "value"),
    ]


def shown_examples(facts: ReportFacts, most: int = MOST_SHOWN) -> Safe | None:
    """The examples themselves, at most `most` of those that were stored with the verdict; None where none
    were.
    """
    if facts.evidence is None or not facts.shown[:most]:
        return None
    places = {name: place for place, name in enumerate(facts.evidence.quality.ids)}
    found = flips(facts.evidence)
    items = [
        _example(one, _how(places[one.id], found, facts))
        for one in facts.shown[: min(most, MOST_SHOWN)]
        if one.id in places
    ]
    title = tag("h3", esc("Some of the examples that changed"))
    return tag("div", title, tag("ul", *items, class_="gallery"))


def _how(place: int, found: tuple[Flips, ...], facts: ReportFacts) -> str:
    """What became of one example against the dense parent, on every target where it changed."""
    told = []
    for one in found:
        if one.baseline == "dense" and place in one.wrong_at:
            told.append(f"became wrong on {one.where}{_answers(place, one, facts)}")
        if one.baseline == "dense" and place in one.right_at:
            told.append(f"became right on {one.where}{_answers(place, one, facts)}")
    slices = facts.evidence.quality.slices if facts.evidence is not None else {}
    within = [f"{family}={values[place]}" for family, values in sorted(slices.items())[:4]]
    return "; ".join([*told, *within])


def _answers(place: int, one: Flips, facts: ReportFacts) -> str:
    """The class that the dense model saw and the one that is seen now; empty where records are no classes."""
    arms = facts.evidence.quality.arms if facts.evidence is not None else {}
    answer = f"{one.member}.answer" if one.member else "answer"
    seen = [
        arms[key].columns[answer][place]
        for key in ("dense", f"candidate@{one.target}")
        if key in arms and answer in arms[key].columns
    ]
    return f": class {seen[0]} → {seen[1]}" if len(seen) == 2 else ""


def _example(one: ShownExample, how: str) -> Safe:
    """Its picture or its words, and below them which it is and what became of it."""
    below = join([tag("bdi", esc(one.id, 60)), tag("small", esc(how, 200))])
    drawn = png.data_uri(one.width, one.height, one.channels, one.pixels)
    if drawn is None:
        return tag("li", tag("q", esc(one.text, 400)), below, class_="words")
    return tag("li", tag("img", src=drawn, alt=visible(f"Example {one.id}", 80)), below)


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
            about = f"{words.baseline_name(one.baseline, facts)}, {one.where}"
            rows = [
                [tag("bdi", esc(ids[at], 120)), esc(how)] for at, how in changed[:MOST_EXAMPLES]
            ]
            left = len(changed) - len(rows)
            more = f"; {left} more are in evidence.json" if left else ""
            listed = html_table(f"Examples that changed against {about}{more}", ["Id", "How"], rows)
            found.append(details(f"Which examples changed against {about}", listed))
    return found
