"""A verdict in a terminal: plain text, no colour needed, nothing that a terminal would obey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reprune.core.artifacts import RuleResult, Verdict
from reprune.core.store import Artifact
from reprune.report import advice, cells, words
from reprune.report.columns import padded, width
from reprune.report.cost import cost_lines
from reprune.report.facts import ReportFacts, read_facts
from reprune.report.generations import since_last
from reprune.report.guards import advice_lines, told
from reprune.report.markup import visible
from reprune.report.method import notes
from reprune.report.phrases import Phrase, as_text
from reprune.report.plan_change import change_words
from reprune.report.slices import newest
from reprune.report.taken_over import difficulty, taken_over

MOST_SLICES = 20
_RIGHT = 2  # columns from here on are numbers


def render_terminal(verdict: Verdict) -> str:
    """The headline, the reasons, what serves, and a table of all demands, the blocked ones first."""
    facts = ReportFacts(verdict=verdict, digest="")
    return "\n".join([*_opening(facts), "", *_demands(facts)]).rstrip()


def render_explanation(verdict: Artifact[Verdict]) -> str:
    """Why, whether it is noise, where, what to try, and the demands and slices that stand behind it."""
    facts = read_facts(verdict)
    undecided = facts.judgement.outcome == "inconclusive"
    lines = _opening(facts)
    for title, phrases in (
        ("Since last time", [*since_last(facts), *difficulty(facts)]),
        ("Taken over", taken_over(facts)),
        ("Is it noise?", advice.certainty(facts)),
        ("Where", advice.where(facts)),
        ("Newest examples", newest(facts)),
        ("To decide it" if undecided else "What to try", advice.to_try(facts)),
    ):
        lines += _titled(title, phrases)
    lines += ["", *_demands(facts)]
    harmed = words.moved(facts.judgement)
    if harmed:
        rows = [
            [one.slice, str(one.examples), words.points(one.change)] for one in harmed[:MOST_SLICES]
        ]
        lines += ["", *_columns(["harmed slice", "examples", "change"], rows, right=1)]
        if len(harmed) > MOST_SLICES:
            lines.append(f"and {len(harmed) - MOST_SLICES} more")
    changed = change_words(facts)
    lines += _titled("Plan", [(f"{changed}.",)] if changed else [])
    lines += _titled("Cost", cost_lines(facts)[: 2 * MOST_SLICES])
    lines += _titled("Guards of the measurement", [(line,) for line in told(facts)[:MOST_SLICES]])
    lines += _titled("Notes", [(note,) for note in notes(facts)])
    return "\n".join([*lines, "", f"Judge the same samples again: {advice.RECOMPUTE}"]).rstrip()


def _opening(facts: ReportFacts) -> list[str]:
    judgement = facts.judgement
    reasons = [f"  - {as_text(line)}" for line in advice.reasons(facts)]
    return [
        f"{words.ICON[judgement.outcome]} {visible(judgement.headline, 1000)}",
        *(f"! Override: {as_text(line)}" for line in advice.overrides(facts)),
        *(f"! {as_text(line)}" for line in advice.warnings(facts)),
        as_text(advice.serving(facts)),
        *reasons,
        *(f"  - guard tripped: {visible(line, 1000)}" for line in advice_lines(facts)),
    ]


def _titled(title: str, phrases: list[Phrase]) -> list[str]:
    return ["", title, *(f"  - {as_text(line)}" for line in phrases)] if phrases else []


def _demands(facts: ReportFacts) -> list[str]:
    rules = words.worst_first(facts.judgement.rules)
    if not rules:
        return ["No demand of the policy could be judged."]
    targets = {one.target for one in rules}
    where = f" on {rules[0].target}" if len(targets) == 1 and rules[0].target else ""
    head = ["", f"demand{where}", "change (interval)", "limit"]
    return _columns(head, [_row(one, facts, where) for one in rules], right=_RIGHT)


def _row(one: RuleResult, facts: ReportFacts, where: str) -> list[str]:
    """A row; `where` is the target that all rows share, which the head names already."""
    about = words.against(one, facts).removesuffix(where).replace("against ", "vs ")
    spread = cells.interval(one)
    return [
        words.state(one),
        f"{words.label(one)} {about}",
        f"{cells.change(one)} ({spread})" if spread else cells.change(one),
        cells.limit(one),
    ]


def _columns(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: int) -> list[str]:
    """Lines with aligned columns; those from `right` on are aligned at their right end."""
    table = [[visible(cell, 60).replace(words.NBSP, " ") for cell in row] for row in (head, *rows)]
    widths = [max(width(row[column]) for row in table) for column in range(len(head))]
    return [padded(row, widths, right=range(right, len(head))) for row in table]
