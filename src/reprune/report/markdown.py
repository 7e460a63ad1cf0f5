"""The pull-request report: the verdict first, then why, then the numbers; never above 60,000 bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote

from reprune.core.artifacts import RuleResult
from reprune.core.marker import Marker, marker_line
from reprune.report import advice, cells, plain, words
from reprune.report.cost import cost_lines
from reprune.report.facts import ReportFacts
from reprune.report.generations import since_last
from reprune.report.guards import guard_lines
from reprune.report.method import method_lines
from reprune.report.phrases import Phrase, as_markdown, sentence
from reprune.report.plan_change import change_lines
from reprune.report.summary import plan_lines, slice_lines
from reprune.report.taken_over import difficulty, taken_over

# GitHub refuses a comment above 65,536 characters; the rest is for what a poster adds.
MAX_BYTES = 60_000

# More overrides than these cannot hold at once unless something is badly wrong; the rest is counted.
MOST_OVERRIDES = 10


@dataclass(frozen=True, kw_only=True)
class Room:
    """What is shown in full. The order of sacrifice is the order of `_rooms`; the verdict has no switch."""

    ok_slices: bool = True
    plan: bool = True
    ok_rows: bool = True
    guards: bool = True
    method: bool = True
    harmed: int = 200
    deciding: int = 400
    name: int = 80
    sentences: int = 20
    sentence: int = 600


WITHOUT_METHOD = {"guards": False, "method": False}


def render_markdown(facts: ReportFacts, *, max_bytes: int | None = None) -> str:
    """The report as GitHub-flavoured Markdown, at most `max_bytes` (MAX_BYTES) in UTF-8, with balanced tags.

    Where there is too much, slices that are ok go first, then the plan, then rows that are ok, then
    how it was measured; each says what was left out. The verdict, an override that holds, a guard that
    tripped and a blocked row always stay (of more than some hundreds, the worst stay and the rest are
    counted).
    """
    most = MAX_BYTES if max_bytes is None else max_bytes
    text = ""
    for room in _rooms():
        text = re.sub("\n{3,}", "\n\n", "\n".join(_lines(facts, room))).rstrip() + "\n"
        if len(text.encode()) <= most:
            return text
    return text


def _rooms() -> Iterator[Room]:
    room = Room()
    yield room
    for step in ({"ok_slices": False}, {"plan": False}, {"ok_rows": False}, WITHOUT_METHOD):
        room = replace(room, **step)
        yield room
    yield (room := replace(room, name=40, harmed=100, sentences=10, sentence=300))
    while room.deciding > 1:
        room = replace(
            room,
            harmed=room.harmed // 2,
            deciding=room.deciding // 2,
            sentences=max(2, room.sentences // 2),
        )
        yield room


def _lines(facts: ReportFacts, room: Room) -> Iterator[str]:
    yield marker_line(marker(facts))
    yield from _opening(facts, room)
    yield from _explanation(facts, room)
    yield from _demands(facts, room)
    yield ""
    yield from guard_lines(
        facts, full=room.guards, most=room.sentences, sentence_limit=room.sentence
    )
    if room.plan:
        yield from _titled("Cost:", cost_lines(facts), room)
    yield from slice_lines(facts, ok=room.ok_slices, harmed=room.harmed, name=room.name)
    yield from change_lines(facts, full=room.plan, name=room.name)
    yield from plan_lines(facts, full=room.plan, name=room.name)
    if room.method:
        yield from plain.fold(
            "How it was measured, and how to check it yourself",
            [f"- {as_markdown(line)}" for line in method_lines(facts)],
        )
    else:
        yield f"Check it yourself: {plain.code(advice.RECOMPUTE)}"
    yield ""
    yield _footer(facts)


def marker(facts: ReportFacts) -> Marker:
    """The first line, unseen by readers: whose report this is, what it says, which lock it is of."""
    verdict = facts.verdict
    targets = facts.lock.targets if facts.lock is not None else ()
    return Marker(
        key=report_key(verdict.name, targets),
        verdict=facts.judgement.outcome,
        lock=verdict.lock.removeprefix("sha256:")[:16],
        mode="dry-run" if facts.judgement.dry_run is True else "",
    )


def report_key(name: str, targets: Sequence[str]) -> str:
    """What names a report among others of the same pull request: the model and its targets."""
    names = [quote(each[:100], safe="", errors="replace") for each in (name, *targets[:9])]
    return f"{names[0]}@{'+'.join(names[1:])}".replace("--", "-%2D")


def _opening(facts: ReportFacts, room: Room) -> Iterator[str]:
    judgement = facts.judgement
    headline = as_markdown(sentence(judgement.headline), room.sentence)
    yield f"### {words.ICON[judgement.outcome]} {headline}"
    yield ""
    held = advice.overrides(facts)
    for line in held[-MOST_OVERRIDES:]:
        yield from (f"⚠️ **Override:** {as_markdown(line, min(300, room.sentence))}", "")
    if len(held) > MOST_OVERRIDES:
        yield from (f"{len(held) - MOST_OVERRIDES} older overrides hold as well.", "")
    yield from (f"**{as_markdown(advice.serving(facts))}**", "")
    yield from _titled("", advice.reasons(facts), room)
    for line in advice.warnings(facts):
        yield from (f"⚠️ {as_markdown(line)}", "")


def _explanation(facts: ReportFacts, room: Room) -> Iterator[str]:
    for title, phrases in (
        ("Since last time:", [*since_last(facts), *difficulty(facts)]),
        ("Taken over:", taken_over(facts)),
        ("Is it noise?", advice.certainty(facts)),
        ("Where:", advice.where(facts)),
        (
            "To decide it:" if facts.judgement.outcome == "inconclusive" else "Try:",
            advice.to_try(facts),
        ),
    ):
        yield from _titled(title, phrases, room)


def _titled(title: str, phrases: list[Phrase], room: Room) -> Iterator[str]:
    """One sentence in a line, several as a list, after a word in bold; of too many the first."""
    shown = [as_markdown(line, room.sentence) for line in phrases[: room.sentences]]
    if len(shown) < len(phrases):
        shown.append(f"and {len(phrases) - len(shown)} more")
    bold = f"**{title}**" if title else ""
    if len(shown) == 1:
        yield from (f"{bold} {shown[0]}".lstrip(), "")
    elif shown:
        yield from (*([bold] if bold else []), *(f"- {line}" for line in shown), "")


def _demands(facts: ReportFacts, room: Room) -> Iterator[str]:
    """One row a rule, blocked rows first. A row that may not be left out never is."""
    ordered = _condensed(words.worst_first(facts.judgement.rules))
    deciding = [one for one in ordered if not words.not_deciding(one)]
    rest = [one for one in ordered if words.not_deciding(one)] if room.ok_rows else []
    shown = [*deciding[: room.deciding], *rest]
    if shown:
        this = f"pruned {words.version(facts.verdict.dense_version)}"
        head = ["", "Demand", "baseline", plain.text(this, 60), "change (interval)", "limit"]
        yield from plain.table(head, [_row(one, facts, room) for one in shown], numbers=2)
    left = len(ordered) - len(shown)
    if left:
        blocked = len(deciding) - len(deciding[: room.deciding])
        about = f", {blocked} of them not ok" if blocked else ", all ok or advisory"
        yield from ("", f"{left} more rows are in the HTML report{about}.")
    if not ordered:
        yield "No demand of the policy could be judged."


def _condensed(results: list[RuleResult]) -> list[RuleResult]:
    """Without the engines that passed parity, but for the worst of each target: they are no news."""
    worst: dict[str | None, RuleResult] = {}
    for one in results:
        if words.family(one) == "parity" and one.outcome == "pass":
            held = worst.setdefault(one.target, one)
            if (one.candidate_value or 0.0) > (held.candidate_value or 0.0):
                worst[one.target] = one
    return [
        one
        for one in results
        if words.family(one) != "parity" or one.outcome != "pass" or worst[one.target] is one
    ]


def _row(result: RuleResult, facts: ReportFacts, room: Room) -> list[str]:
    name = plain.text(words.label(result), room.name)
    against = plain.text(words.against(result, facts), 2 * room.name)
    shown = cells.change(result)
    bold = result.outcome == "block" and result.required and shown != cells.NOTHING
    change = f"**{plain.text(shown)}**" if bold else plain.text(shown)
    spread = cells.interval(result)
    return [
        f"{words.icon(result)} {words.state(result)}",
        f"{name} {words.arrow(result)} {against}",
        plain.text(cells.baseline(result)),
        plain.text(cells.candidate(result)),
        f"{change} ({plain.text(spread)})" if spread else change,
        plain.text(cells.limit(result)),
    ]


def _footer(facts: ReportFacts) -> str:
    verdict = facts.verdict
    made = plain.text(verdict.producer.version or "of unknown version", 60)
    digest = plain.code(words.short(facts.digest))
    return (
        f"<sub>Reprune {made} · verdict {digest} · statistics {plain.code(facts.judgement.procedure)}"
        " · the full report is `report.html` beside this file</sub>"
    )
