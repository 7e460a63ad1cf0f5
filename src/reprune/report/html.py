"""The HTML report: one file that asks nobody for anything, complete without a script."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.resources import files

from reprune.core.artifacts import Outcome
from reprune.report import advice, cells, words
from reprune.report.cost_section import cost_section
from reprune.report.engines import engines_section
from reprune.report.facts import ReportFacts
from reprune.report.feature_maps import maps_section
from reprune.report.generations import generations_section, since_last
from reprune.report.guards import tripped
from reprune.report.markup import Safe, esc, join, tag
from reprune.report.phrases import Phrase, as_html, sentence
from reprune.report.predicted import predicted_section
from reprune.report.provenance import data_section, lineage_section, machine_section
from reprune.report.sections import (
    Section,
    demands_section,
    latency_section,
    plan_section,
    quality_section,
    recovery_section,
    sensitivity_section,
)
from reprune.report.taken_over import difficulty, taken_over

# No script, no request: the browser itself refuses anything that would break the promise.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

_SIGNS: dict[Outcome, str] = {
    "pass": "M7 12.5l3.4 3.4L17 9",
    "block": "M8 8l8 8M16 8l-8 8",
    "inconclusive": "M9.2 9.4a2.9 2.9 0 1 1 4.2 2.7c-1 .5-1.4 1-1.4 2M12 17.2v.1",
    "error": "M12 6.8v6.4M12 17v.1",
}


# A page that is larger is opened by nobody.
MAX_BYTES = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Room:
    """How many pictures the page may hold: examples with feature maps, and examples that changed."""

    maps: int
    shown: int


# The order of sacrifice: pictures go, first those of layers. No number, no table and no word does.
_ROOMS = (
    Room(maps=3, shown=48),
    Room(maps=1, shown=48),
    Room(maps=1, shown=12),
    Room(maps=0, shown=12),
    Room(maps=0, shown=0),
)


def render_html(facts: ReportFacts, *, show_examples: bool = False) -> str:
    """The whole page. Every text that comes from a user is escaped; nothing is loaded from anywhere.

    `show_examples` lists the ids of the examples that changed their answer. A page over MAX_BYTES loses
    pictures in the order of `_ROOMS`.
    """
    page = ""
    for room in _ROOMS:
        page = _page(facts, room, show_examples=show_examples)
        if len(page.encode()) <= MAX_BYTES:
            break
    return page


def _page(facts: ReportFacts, room: Room, *, show_examples: bool) -> str:
    sections = [
        section
        for build in (
            demands_section,
            latency_section,
            cost_section,
            partial(quality_section, show_examples=show_examples, most_shown=room.shown),
            plan_section,
            predicted_section,
            sensitivity_section,
            recovery_section,
            partial(maps_section, examples=room.maps),
            generations_section,
            data_section,
            engines_section,
            lineage_section,
            machine_section,
        )
        if (section := build(facts)) is not None
    ]
    dry = "Dry run, " if facts.judgement.dry_run is True else ""
    title = f"{dry}{words.WORD[facts.judgement.outcome]}: {facts.verdict.name} "
    title += words.full_version(facts.verdict.dense_version)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", esc(f"{title} | Reprune")),
        tag("style", Safe(_style())),
    )
    main = tag(
        "main",
        _banner(facts),
        _tiles(facts),
        _contents(sections),
        *map(_section, sections),
        _footer(facts),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}<body>{main}</body></html>\n'


def _style() -> str:
    """The style sheet, which lies beside this module as a file of its own."""
    return files("reprune.report").joinpath("style.css").read_text(encoding="utf-8")


def _banner(facts: ReportFacts) -> Safe:
    judgement = facts.judgement
    undecided = judgement.outcome == "inconclusive"
    mine = f"{facts.verdict.name} {words.full_version(facts.verdict.dense_version)}"
    return tag(
        "header",
        tag(
            "p",
            _sign(judgement.outcome),
            esc(f"Verdict on {mine}"),
            class_="state",
        ),
        tag("h1", as_html(sentence(judgement.headline))),
        _dry_run(facts),
        *(
            tag("p", tag("strong", esc("Override: ")), as_html(line), class_="override")
            for line in advice.overrides(facts)
        ),
        *(tag("p", as_html(line), class_="override") for line in advice.warnings(facts)),
        tag("p", as_html(advice.serving(facts)), class_="serving"),
        _phrases("", advice.reasons(facts)),
        _phrases("Guard tripped:", [(one.words,) for one in tripped(facts)]),
        _phrases("Since last time:", [*since_last(facts), *difficulty(facts)]),
        _phrases("Taken over:", taken_over(facts)),
        _phrases("Is it noise?", advice.certainty(facts)),
        tag(
            "div",
            _phrases("Where", advice.where(facts)),
            _phrases("To decide it" if undecided else "What to try", advice.to_try(facts)),
            class_="next",
        ),
        class_=f"banner {judgement.outcome}",
    )


def _dry_run(facts: ReportFacts) -> Safe:
    if facts.judgement.dry_run is not True:
        return Safe("")
    return tag(
        "p",
        tag("strong", esc("Dry run: ")),
        esc("judged and reported as always; nothing is promoted, whatever the outcome."),
        class_="dry-run",
    )


def _sign(outcome: Outcome) -> Safe:
    return tag(
        "svg",
        tag("circle", cx=12, cy=12, r=11, class_="icon-disc"),
        tag("path", d=_SIGNS[outcome], class_="icon-sign"),
        viewBox="0 0 24 24",
        aria_hidden="true",
    )


def _phrases(title: str, phrases: list[Phrase]) -> Safe:
    """Nothing, one sentence or a list, after a word in bold that says what they are."""
    if not phrases:
        return Safe("")
    if title and len(phrases) > 1:
        items = tag("ul", *(tag("li", as_html(phrase)) for phrase in phrases[:40]))
        return tag("div", tag("p", tag("strong", esc(title))), items)
    strong = Safe(tag("strong", esc(title)) + " ") if title else Safe("")
    if len(phrases) == 1:
        return tag("p", strong, as_html(phrases[0]))
    return tag("ul", *(tag("li", as_html(phrase)) for phrase in phrases[:40]))


def _tiles(facts: ReportFacts) -> Safe:
    """The four or so numbers that people quote: one for each demand against the dense parent, and MACs."""
    tiles = []
    for one in facts.judgement.rules:
        if words.is_parent(one) and one.change is not None and words.family(one) != "slices":
            name = f"{words.label(one)}{f', {one.target}' if one.target else ''}"
            detail = f"{words.brief_state(one)}, limit {cells.limit(one)}"
            tiles.append((name, cells.change(one), detail))
    costs = facts.costs
    if costs is not None and costs[0].macs:
        dense, mine = costs
        detail = f"{words.big(dense.macs)} to {words.big(mine.macs)}, one example"
        tiles.append(("Multiply-accumulates", words.ratio(mine.macs / dense.macs), detail))
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag("span", esc(name, 60), class_="name"),
                tag("span", esc(value), class_="big"),
                tag("small", esc(detail)),
            )
            for name, value, detail in tiles[:8]
        ),
        class_="tiles",
        aria_label="Against the dense parent",
    )


def _contents(sections: list[Section]) -> Safe:
    items = (tag("li", tag("a", esc(one.title), href=f"#{one.key}")) for one in sections)
    return tag("nav", tag("ol", *items), aria_label="Contents")


def _section(section: Section) -> Safe:
    heading = f"h-{section.key}"
    return tag(
        "section",
        tag("h2", esc(section.title), id=heading),
        tag("p", esc(section.lead, 1000), class_="lead"),
        *section.content,
        id=section.key,
        aria_labelledby=heading,
    )


def _footer(facts: ReportFacts) -> Safe:
    made = facts.verdict.producer.version or "unknown"
    return tag(
        "footer",
        join(
            [
                esc(f"Made by Reprune {made}, statistical procedure {facts.judgement.procedure}. "),
                esc("To judge the same samples again: "),
                tag("code", esc(advice.RECOMPUTE)),
            ]
        ),
    )
