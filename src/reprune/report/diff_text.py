"""`reprune diff` in a terminal: two verdicts or plans side by side, worst first, words beside every sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from reprune.core.artifacts import RuleResult, SliceResult
from reprune.report import cells, words
from reprune.report.columns import clipped, laid_out, tabled, width, wrapped
from reprune.report.differences import (
    Amount,
    Between,
    Difference,
    FigureDiff,
    KeyDiff,
    PlanDiff,
    RuleDiff,
    Side,
    VerdictDiff,
)
from reprune.report.markup import visible

WIDTH = 100
MOST_PARTS = 40
MOST_SLICES = 20
MOST_SETTINGS = 60
_LONGEST = 34  # cells of a value in a list
_LEGEND = (
    "worse, better: B lies further from A than their two intervals leave room for; noise: it does not; "
    "unknown: without intervals nobody can say"
)

_NO_DEMAND = "No demand of the policy could be judged in either."


def render_diff(told: Difference, *, columns: int = WIDTH) -> str:
    """Both outcomes, then what moved; at most `columns` wide, however long the names are."""
    lines = [*_head("A", told.before, columns), *_head("B", told.after, columns), ""]
    if told.verdicts is not None:
        for note in told.verdicts.notes:
            lines += wrapped(f"! {visible(note)}", columns, rest="  ")
        lines += ["", *_verdicts(told.verdicts, columns)]
    if told.plan is not None:
        lines += ["", *_plan(told.plan, columns, alone=told.verdicts is None)]
    if told.verdicts is not None:
        lines += ["", *_settings(told.verdicts.settings, columns)]
    fitting = [part for line in lines for part in _fitted(line.rstrip(), columns)]
    return _squeezed("\n".join(fitting).replace(words.NBSP, " "))


def _fitted(line: str, columns: int) -> list[str]:
    return [line] if width(line) <= columns else wrapped(line, columns, rest="  ")


def _squeezed(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip()


def _head(letter: str, side: Side, columns: int) -> Iterator[str]:
    about = [visible(side.given, 60)]
    if side.version and side.version != side.given:
        about.append(f"version {visible(side.version, 40)}")
    if side.name:
        about.append(
            f"{visible(side.name, 60)}, dense {words.version(visible(side.dense_version, 40))}"
        )
        about.append(f"attempt {side.attempt}")
    yield from wrapped(f"{letter}  {' · '.join(about)}", columns, rest="   ")
    if side.outcome is not None:
        told = f"{words.ICON[side.outcome]} {visible(side.headline, 400)}"
        yield from wrapped(told, columns, first="   ", rest="      ")
    if side.checked:
        told = f"! No signature was checked: {visible(side.checked)}"
        yield from wrapped(told, columns, first="   ", rest="     ")


def _verdicts(told: VerdictDiff, columns: int) -> Iterator[str]:
    yield from _rules(told.rules, columns)
    for one in told.flips:
        where = ", ".join(visible(each, 60) for each in (one.member, one.target) if each)
        yield from wrapped(
            f"On the same {words.plural(one.examples, 'example')} on {where}: only A had "
            f"{words.count(one.only_before)} right, only B {words.count(one.only_after)} "
            f"(McNemar's exact test: p = {words.number(one.p, 2)}).",
            columns,
            rest="  ",
        )
    yield ""
    yield from _slices(told, columns)
    yield ""
    yield from _figures(told.figures, columns)


def _rules(rules: Sequence[RuleDiff], columns: int) -> Iterator[str]:
    """Two lines a demand: the values, and below them how far they lie apart and their intervals."""
    shown = [one for one in rules if one.moved != "same"]
    where = {one.target for one in shown}
    target = next(iter(where)) if len(where) == 1 else None
    if shown:
        rows = [_rule(one, target) for one in shown]
        head = ["", f"demand{f' on {visible(target, 20)}' if target else ''}", "A", "B", "limit"]
        table = tabled([head, *(line for row in rows for line in row)], columns)
        yield from table or [line for row in rows for line in _listed(*row, columns)]
        yield from wrapped(_LEGEND, columns)
    same = len(rules) - len(shown)
    if same or not rules:
        yield f"{words.plural(same, 'demand')} measured the same" if rules else _NO_DEMAND


def _rule(one: RuleDiff, target: str | None) -> tuple[list[str], list[str]]:
    judged = [each for each in (one.before, one.after) if each is not None]
    known = judged[-1]
    on = f" on {visible(one.target, 20)}" if one.target and one.target != target else ""
    against = "" if words.is_absolute(known) else f" vs {visible(one.baseline, 16)}"
    limits = [cells.limit(each) for each in judged]
    values = [
        one.moved,
        f"{words.label(known)}{against}{on} {words.arrow(known)}",
        _value(one.before),
        _value(one.after),
        limits[0],
    ]
    changed = f"→ {limits[-1]}" if limits[0] != limits[-1] else ""
    apart = _between(one.between, known.unit)
    return values, ["", apart, _spread(one.before), _spread(one.after), changed]


def _listed(values: list[str], below: list[str], columns: int) -> Iterator[str]:
    """The two lines of a demand one below another, for a narrow screen."""
    moved, demand, *ends, limit = values
    _, apart, *spreads, changed = below
    yield from wrapped(f"{moved}: {demand}, limit {limit} {changed}".rstrip(), columns, rest="  ")
    for letter, value, spread in zip("AB", ends, spreads, strict=True):
        told = f"{letter}  {value} {spread}".rstrip()
        yield from wrapped(told, columns, first="  ", rest="     ")
    if apart:
        yield from wrapped(apart, columns, first="  ", rest="     ")


def _value(result: RuleResult | None) -> str:
    if result is None:
        return "not judged"
    word = words.ROW_WORD[result.outcome] + ("" if result.required else ", advisory")
    return f"{cells.change(result)} {word}"


def _spread(result: RuleResult | None) -> str:
    """The interval, in the unit that stands above it."""
    spread = "" if result is None else cells.interval(result)
    return f"({_bare(spread)})" if spread else ""


def _bare(spread: str) -> str:
    """Without a unit that the value beside it has."""
    return spread.removesuffix(f"{words.NBSP}pt").removesuffix(f"{words.NBSP}%").lstrip(words.TIMES)


def _between(between: Between | None, unit: str) -> str:
    """How far B lies from A, with its interval."""
    if between is None:
        return ""
    shown = words.ratio if between.scale == "factor" else _UNITS.get(unit, words.signed)
    ends = [None if end is None else shown(end) for end in (between.low, between.high)]
    value = f"B {'/' if between.scale == 'factor' else words.MINUS} A: {shown(between.value)}"
    if ends == [None, None]:
        return value
    return f"{value} ({_bare(cells.span(ends[0] or 'unbounded', ends[1] or 'unbounded'))})"


_UNITS = {"share": words.points}


def _slices(told: VerdictDiff, columns: int) -> Iterator[str]:
    total = len(told.slices) + told.slices_same
    if not total:
        return
    shown = told.slices[:MOST_SLICES]
    if not shown:
        yield f"None of {words.plural(total, 'slice')} moved."
        return
    head = ["", "slice", "A", "B", f"B {words.MINUS} A (interval)"]
    rows = [
        [
            one.moved,
            visible(one.slice, 40) + (f" ({visible(one.target, 20)})" if one.target else ""),
            _slice(one.before),
            _slice(one.after),
            _between(one.between, "share").partition(": ")[2],
        ]
        for one in shown
    ]
    yield from laid_out(head, rows, columns)
    left = len(told.slices) - len(shown)
    more = f"{left} more moved; " if left else ""
    yield f"{more}{words.plural(told.slices_same, 'slice')} did not move"


def _slice(one: SliceResult | None) -> str:
    if one is None:
        return "not there"
    if one.outcome == "not judged":
        return "not judged"
    return f"{words.points(one.change)} {'harmed' if one.outcome == 'harm' else one.outcome}"


def _figures(figures: Sequence[FigureDiff], columns: int) -> Iterator[str]:
    changed = [one for one in figures if one.before != one.after]
    if changed:
        rows = [
            [
                one.what + (f", {visible(one.target, 30)}" if one.target else ""),
                _amount(one.before, one.unit),
                _amount(one.after, one.unit),
                _share(one),
            ]
            for one in changed
        ]
        yield from laid_out(["", "A", "B", "B / A"], rows, columns)
    same = len(figures) - len(changed)
    if same:
        yield f"{words.plural(same, 'figure')} the same"


def _amount(amount: Amount | None, unit: str) -> str:
    if amount is None:
        return cells.NOTHING
    shown = _AMOUNTS.get(unit)
    text = shown(amount.value) if shown else words.number(amount.value)
    if shown is None and unit != "loss":
        text = f"{text} {visible(unit, 12)}"
    if amount.low is None or amount.high is None:
        return text
    return f"{text} ({words.number(amount.low)} to {words.number(amount.high)})"


_AMOUNTS: dict[str, Callable[[float], str]] = {
    "bytes": words.size,
    "count": words.big,
    "ratio": words.ratio,
    "share": words.percent,
}


def _share(one: FigureDiff) -> str:
    if one.before is None or one.after is None or one.before.value <= 0:
        return ""
    return words.ratio(one.after.value / one.before.value)


def _plan(plan: PlanDiff, columns: int, *, alone: bool) -> Iterator[str]:
    """The parts that are cut otherwise, and a count of the others; what else the plans say otherwise. Beside
    verdicts that is what they expect of quality and speed: what the model costs is counted there.
    """
    if not plan.changed and not plan.knobs:
        yield f"Plan: {words.plural(plan.same, 'part')}, all cut alike"
    else:
        tally = (
            f"Plan: {words.plural(len(plan.changed), 'part')} cut otherwise, {plan.same} as before"
        )
        yield from wrapped(tally, columns)
    for knob in plan.knobs:
        key = visible(knob.key, 60)
        yield from wrapped(f"{key}: {_step(knob)}", columns, first="  ", rest="    ")
    shown = plan.changed[:MOST_PARTS]
    if shown:
        rows = [
            [one.how, visible(one.part, 48), visible(one.before, 24), visible(one.after, 24)]
            for one in shown
        ]
        yield from laid_out(["", "part", "A", "B"], rows, columns)
    if len(shown) < len(plan.changed):
        yield f"{len(plan.changed) - len(shown)} more changed less than these"
    expected = [one for one in plan.figures if one.unit != "count" and one.before != one.after]
    if alone or expected:
        yield ""
        yield from _figures(plan.figures if alone else expected, columns)


def _settings(found: Sequence[KeyDiff], columns: int) -> Iterator[str]:
    """What the two were made under, by place; digests cut short, because only that they differ matters."""
    if not found:
        yield "Made under the same settings, on the same machine, with the same versions."
        return
    yield "Made under other settings:"
    for one in found[:MOST_SETTINGS]:
        key = f"{visible(one.place, 20)}{f', {visible(one.key, 60)}' if one.key else ''}"
        yield from wrapped(f"{key}: {_step(one)}", columns, first="  ", rest="    ")
    if len(found) > MOST_SETTINGS:
        yield f"  and {len(found) - MOST_SETTINGS} more; --json has all"


def _step(one: KeyDiff) -> str:
    ends = [
        words.short(text)
        if text.startswith("sha256:")
        else clipped(visible(text, 160), _LONGEST * 2)
        for text in (one.before, one.after)
    ]
    return f"{ends[0]} → {ends[1]}"
