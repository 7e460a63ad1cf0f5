"""Whether the measurement could be trusted: the guards, tripped ones first; what to do is in their words."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from reprune.core.artifacts import GuardResult
from reprune.report import plain, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.phrases import Code, Phrase

_STATE = {"tripped": "tripped", "unknown": "not known", "off": "off", "ok": "ok"}
_RANK = {"tripped": 0, "unknown": 1, "off": 2, "ok": 3}
_ICON = {"tripped": "❔", "unknown": words.NOT_DECIDING, "off": words.NOT_DECIDING, "ok": "✅"}
_CHIP = {"tripped": "inconclusive", "unknown": "advisory", "off": "advisory", "ok": "pass"}


def guards(facts: ReportFacts) -> list[GuardResult]:
    """All guards of the judgement, tripped ones first; none for a verdict from before there were any."""
    found = facts.judgement.guards
    return sorted(() if found is UNSET else found, key=lambda one: _RANK[one.outcome])


def tripped(facts: ReportFacts) -> list[GuardResult]:
    """The guards that turned a pass into something undecided."""
    return [one for one in guards(facts) if one.outcome == "tripped"]


def to_do(facts: ReportFacts) -> list[Phrase]:
    """The way out where guards tripped, in one sentence: each guard's own words say the rest."""
    stopped = [f"{name(one.guard).lower()} on {one.target}" for one in tripped(facts)]
    if not stopped:
        return []
    named = words.listing(stopped[:5]) + (" and more" if len(stopped) > 5 else "")
    why = f"The measurement cannot be trusted: do what is said of {named}, then "
    return [(why, Code("dvc repro -s -f benchmark"), " and ", Code("dvc repro"), ".")]


def is_told(decide: str, target: str | None, facts: ReportFacts) -> bool:
    """Whether what would decide a rule is what the target's tripped guards say, which is shown already."""
    told = " ".join(one.words for one in tripped(facts) if one.target == target)
    return decide == told


def tally(facts: ReportFacts) -> str:
    """How many guards came out how: `Guards: 1 tripped, 5 ok, 1 off`. Empty without guards."""
    found = guards(facts)
    counts = {kind: sum(one.outcome == kind for one in found) for kind in _RANK}
    told = [f"{number} {_STATE[kind]}" for kind, number in counts.items() if number]
    return f"Guards of the measurement: {', '.join(told)}" if told else ""


def guard_lines(facts: ReportFacts, *, full: bool, most: int, sentence_limit: int) -> Iterator[str]:
    """Markdown: tripped guards in the open, the others folded away, or only counted."""
    found = guards(facts)
    if not found:
        return
    stopped = tripped(facts)
    for one in stopped[:most]:
        yield f"- {_ICON['tripped']} {_place(one)} tripped: {plain.text(one.words, sentence_limit)}"
    if len(stopped) > most:
        yield f"- and {len(stopped) - most} more tripped, see the HTML report"
    if stopped:
        yield ""
    others = [one for one in found if one.outcome != "tripped"]
    if full and others:
        rows = [
            [f"{_ICON[one.outcome]} {_STATE[one.outcome]}", _place(one), plain.text(one.words)]
            for one in others[:60]
        ]
        yield from plain.fold(tally(facts), plain.table(["", "Guard", "found"], rows, numbers=9))
    else:
        yield from (f"{tally(facts)}.", "")


def guards_table(facts: ReportFacts) -> Safe:
    """HTML: one row a guard, tripped ones first; empty without guards."""
    found = guards(facts)
    if not found:
        return Safe("")
    rows = [
        [
            tag("span", esc(_STATE[one.outcome]), class_=f"chip {_CHIP[one.outcome]}"),
            Safe(esc(name(one.guard)) + " " + tag("small", tag("bdi", esc(one.target, 80)))),
            esc(_amount(one.value)),
            esc(_amount(one.limit)),
            esc(one.words, 800),
        ]
        for one in found[:300]
    ]
    head = ["Outcome", "Guard", "Measured", "Limit", "In words"]
    return html_table("What keeps a speed rule from passing by accident", head, rows)


def advice_lines(facts: ReportFacts) -> list[str]:
    """For a terminal: each tripped guard in a line."""
    return [f"{name(one.guard)} on {one.target}: {one.words}" for one in tripped(facts)]


def told(facts: ReportFacts) -> list[str]:
    """For a terminal: every guard in a line, with how it came out."""
    return [f"{_STATE[one.outcome]}: {name(one.guard)}. {one.words}" for one in guards(facts)]


def name(guard: str) -> str:
    """A guard's name as people say it."""
    return words.sentence_case(guard.replace(".", " "))


def _place(one: GuardResult) -> str:
    return f"{plain.text(name(one.guard), 60)} on {plain.code(one.target)}"


def _amount(value: float | None) -> str:
    return words.EN_DASH if value is None else words.number(value)
