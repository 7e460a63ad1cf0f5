"""JUnit XML, for every CI that knows nothing of us: one test case a demand, and one for the verdict."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from reprune.core.artifacts import Outcome, RuleResult
from reprune.report import advice, cells, words
from reprune.report.facts import ReportFacts
from reprune.report.guards import advice_lines
from reprune.report.markup import visible
from reprune.report.phrases import as_text

# What a demand's outcome is to JUnit. Undecided is an error, not a skip: CI shows a skip as green,
# and an undecided verdict must not look like a pass.
_ELEMENTS: dict[Outcome, str] = {"block": "failure", "inconclusive": "error", "error": "error"}


def render_junit(facts: ReportFacts) -> str:
    """The judgement as JUnit XML.

    A passed demand is a passed case; a blocked one a failure; an undecided or unjudgeable one an
    error. A demand that only informs is skipped where it did not pass. The case `verdict` carries the
    outcome as a whole, so that what no single demand says (evidence that cannot be used) is seen.
    """
    rules = facts.judgement.rules
    cases = [_verdict_case(facts), *(_rule_case(one, facts) for one in rules)]
    found = [_element(one) for one in rules] + [_ELEMENTS.get(facts.judgement.outcome, "")]
    counts = {name: found.count(name) for name in ("failure", "error", "skipped")}
    suite = (
        f'<testsuite name={_quoted(f"reprune.{facts.verdict.name}")} tests="{len(cases)}" '
        f'failures="{counts["failure"]}" errors="{counts["error"]}" skipped="{counts["skipped"]}">'
    )
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<testsuites>",
            suite,
            *_properties(facts),
            *cases,
            "</testsuite>",
            "</testsuites>",
            "",
        ]
    )


def _properties(facts: ReportFacts) -> list[str]:
    """What no case can carry: that it was a dry run, overrides that hold, guards that tripped."""
    named = [("dry_run", "true")] if facts.judgement.dry_run is True else []
    named += [("override", as_text(line)) for line in advice.overrides(facts)]
    named += [("guard_tripped", line) for line in advice_lines(facts)]
    if not named:
        return []
    lines = [f"    <property name={_quoted(key)} value={_quoted(text)}/>" for key, text in named]
    return ["  <properties>", *lines, "  </properties>"]


def _verdict_case(facts: ReportFacts) -> str:
    judgement = facts.judgement
    text = "\n".join((judgement.headline, *judgement.reasons))
    element = _ELEMENTS.get(judgement.outcome, "")
    return _case("verdict", facts.verdict.name, (element, judgement.outcome, text))


def _rule_case(one: RuleResult, facts: ReportFacts) -> str:
    name = f"{one.rule} {words.against(one, facts)}"
    detail = f"{one.words}\nmeasured {cells.change(one)}, limit {cells.limit(one)}"
    if one.decide:
        detail += f"\nto decide it: {one.decide}"
    where = f"{facts.verdict.name}.{one.target or 'all'}"
    return _case(name, where, (_element(one), one.outcome, detail))


def _element(one: RuleResult) -> str:
    if one.outcome == "pass":
        return ""
    return _ELEMENTS[one.outcome] if one.required else "skipped"


def _case(name: str, where: str, result: tuple[str, str, str]) -> str:
    element, kind, detail = result
    opened = f"  <testcase classname={_quoted(f'reprune.{where}')} name={_quoted(name)}"
    if not element:
        return f"{opened}/>"
    first = detail.partition("\n")[0]
    lines = "\n".join(_text(line) for line in detail.splitlines())
    kinds = f" type={_quoted(kind)}" if element != "skipped" else ""
    inner = f"<{element} message={_quoted(first)}{kinds}>{lines}</{element}>"
    return f"{opened}>{inner}</testcase>"


def _quoted(text: str) -> str:
    return quoteattr(visible(text, 1000))


def _text(line: str) -> str:
    shown = visible(line, 4000)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
