"""One generation as the cells of a row, and as sentences: what `reprune history` shows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from reprune.core.artifacts import Outcome
from reprune.registry.generations import Figure, Generation, Made, State
from reprune.report import words
from reprune.report.cells import NOTHING, UNITS
from reprune.report.columns import clipped
from reprune.report.markup import visible

MOST_DENSE = 3
MOST_TEXT = 400
SIGN: dict[Outcome, str] = {"pass": "✓", "block": "✗", "inconclusive": "?", "error": "!"}
_OTHERS: dict[State, str] = {
    "rollback": "↩", "superseded": "-", "error": "!", "not ours": "‼", "not trusted": "‼",
}  # fmt: skip
_ADOPTED = "+"
_HEADS = {"latency": "latency ratio", "latency alone": "latency ratio"}


def head(column: str, metric: str) -> str:
    if column.startswith("quality"):
        return f"{metric}, points" if metric else "quality"
    return _HEADS.get(column, column)


def cell(each: Generation, column: str, metric: str) -> str:
    name, _, alone = column.partition(" ")
    if name == "latency":
        return _latency(each.latency, spread=not alone)
    if name == "quality":
        return _quality(each.quality, metric, spread=not alone)
    return _CELLS[name](each)


def sign(each: Generation) -> str:
    if each.outcome is not None:
        return SIGN[each.outcome]
    return _ADOPTED if each.kind == "adoption" else _OTHERS.get(each.state, " ")


def _state(each: Generation) -> str:
    if each.state == "promoted" and each.kind == "adoption":
        return "adopted"
    return "overridden" if each.state == "promoted" and each.overridden else each.state


def _dense(each: Generation) -> str:
    if not each.dense:
        return NOTHING
    if len(each.dense) == 1:
        return clipped(visible(each.dense[0]), 9)
    return f"{clipped(visible(each.dense[0]), 4)}…{clipped(visible(each.dense[-1]), 4)}"


def said(each: Generation) -> list[str]:
    """What is to be told of a version beside its figures, a sentence each."""
    told = _of_people(each)
    if each.attempt is not None and each.attempt > 1:
        told.append(f"attempt {each.attempt} on this dense version")
    if each.second:
        told.append(f"came second for its lock: the verdict of {visible(each.other, 40)} counts")
    elif each.kind == "judged" and each.other:
        told.append(f"the verdict that version {visible(each.other, 40)} overrides")
    elif each.outcome in ("block", "inconclusive", "error"):
        told.append(_why(each))
    told += made_words(each)
    if each.trouble:
        serves = "it serves, and " if each.serves else ""
        told.append(f"{serves}{visible(each.trouble, MOST_TEXT)}")
    return told


def made_words(each: Generation) -> list[str]:
    """What it took over from its champion's generation, and what that saved."""
    made = each.made
    if made is None:
        return []
    return [*_table_words(made), *_times_words(made), *_widths_words(made), *_recovery_words(made)]


def _table_words(made: Made) -> list[str]:
    if not made.table:
        return []
    if made.table == "measured":
        return [f"sensitivity measured whole: {visible(made.why, MOST_TEXT)}"]
    saved = max(0, made.full_cost - made.cost)
    share = f" ({words.percent(saved / made.full_cost, 0)})" if made.full_cost else ""
    doubt = f"; its plan: {visible(made.table_doubt, MOST_TEXT)}" if made.table_doubt else ""
    return [f"the champion's sensitivity, checked; saved {words.big(saved)} examples{share}{doubt}"]


def _widths_words(made: Made) -> list[str]:
    if not made.widths:
        return []
    end = "kept" if made.widths == "kept" else "tried; fresh ones taken"
    doubt = f"; {visible(made.widths_doubt, MOST_TEXT)}" if made.widths_doubt else ""
    return [f"the champion's widths {end}{doubt}"]


def _recovery_words(made: Made) -> list[str]:
    """How recovery went about it, where the champion's had a say in it."""
    told = []
    if made.epochs is not None:
        saved = f", saved {words.big(made.recovery_saved)} examples" if made.recovery_saved else ""
        told.append(f"{made.epochs} of {words.plural(made.asked or 0, 'epoch')}{saved}")
    if made.start:
        told.append(f"begun with the {'champion' if made.start == 'champion' else 'cut model'}")
    if made.taught:
        told.append(f"the champion taught {words.percent(made.taught, 0)}")
    if made.rate is not None and made.rate_how in ("champion", "tried"):
        since = f"the champion's, found {words.plural(made.rate_age, 'generation')} ago"
        how = since if made.rate_how == "champion" else "the best of those tried"
        told.append(f"learning rate {made.rate:g}, {how}")
    return [f"recovery: {'; '.join(told)}"] if told else []


def _times_words(made: Made) -> list[str]:
    if made.times == "measured" and made.times_why != made.why:
        return [f"latency tables measured: {visible(made.times_why, MOST_TEXT)}"]
    if made.times != "reused":
        return []
    took = f"{made.builds} of {words.plural(made.full_builds, 'engine')}"
    return [f"the champion's latency tables, checked; {took} built for them"]


def _of_people(each: Generation) -> list[str]:
    """Who did what to it, and why."""
    by, reason = visible(each.by, 80), visible(each.reason, MOST_TEXT)
    told = []
    if each.kind == "rollback":
        since = f" from {visible(each.champion, 40)}" if each.champion else ""
        told.append(f"returned to {visible(each.other, 40)}{since}, by {by}: {reason}")
    elif each.kind == "adoption":
        told.append(f"a copy of {visible(each.other, 80)}, adopted by {by}: {reason}")
    elif each.kind == "closed":
        told.append(f"dense {_listing(each.dense)}: {reason or 'the service does not say why'}")
    elif each.overridden:
        told.append(f"overridden by {by} until {visible(each.until, 10)}: {reason}")
    if each.back_by:
        who, where = visible(each.back_by, 80), visible(each.back_in, 40)
        told.append(f"rolled back by {who}: see version {where}")
    elif each.state == "rolled back":
        told.append("rolled back, as its tags say; the record of who did it is not among these")
    return told


def _why(each: Generation) -> str:
    """The verdict's headline without its first word, which the state says already."""
    if each.headline:
        return visible(without_outcome(each.headline), MOST_TEXT)
    return visible(each.reasons[0], MOST_TEXT) if each.reasons else "it does not say why"


def without_outcome(headline: str) -> str:
    """A headline without the outcome that it begins with."""
    first, _, rest = headline.partition(": ")
    return (
        f"{rest[:1].upper()}{rest[1:]}"
        if first in ("Blocked", "Inconclusive", "Error")
        else headline
    )


def _listing(dense: Sequence[str]) -> str:
    names = [visible(one, 40) for one in dense]
    if len(names) <= MOST_DENSE:
        return words.listing(names)
    return f"{names[0]} to {names[-1]} ({len(names)} versions)"


def shared_metric(generations: Sequence[Generation]) -> str:
    """The metric that all rows share, if it is a share of examples; else nothing, and each says its own."""
    found = {(each.quality.rule, each.quality.unit) for each in generations if each.quality}
    rules = {rule for rule, unit in found if unit == "share"}
    if len(found) != 1 or len(rules) != 1:
        return ""
    return visible(rules.pop().removesuffix(".vs_parent"), 16) or "quality"


def _latency(figure: Figure | None, *, spread: bool) -> str:
    """`change (low to high)` as parts of the dense model's, with a dash."""
    if figure is None:
        return NOTHING
    ends = [_number(figure, one) for one in (figure.low, figure.high)]
    value = _number(figure, figure.change)
    return f"{value} ({words.EN_DASH.join(ends)})" if spread and _has_interval(figure) else value


def _quality(figure: Figure | None, metric: str, *, spread: bool) -> str:
    """`change (low to high)`; with unit and metric where the head does not say them."""
    if figure is None:
        return NOTHING
    shown = _number if metric else amount
    value = shown(figure, figure.change)
    if spread and _has_interval(figure):
        ends = [_number(figure, one) for one in (figure.low, figure.high)]
        value = f"{value} ({' to '.join(ends)})"
    name = figure.rule.removesuffix(".vs_parent")
    return value if metric or not name else f"{value} {visible(name, 12)}"


def _has_interval(figure: Figure) -> bool:
    return figure.low is not None or figure.high is not None


def _number(figure: Figure, value: float | None) -> str:
    """A number alone, without its unit."""
    if value is None:
        return "unbounded"
    return amount(figure, value).removesuffix(" pt").removeprefix(words.TIMES)


def amount(figure: Figure, value: float) -> str:
    known = UNITS.get(figure.unit)
    return plain(known(value) if known else words.signed(value))


def plain(text: str) -> str:
    return text.replace(words.NBSP, " ")


def _day(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, tz=UTC).date().isoformat()


_CELLS: dict[str, Callable[[Generation], str]] = {
    "version": lambda each: f"{'●' if each.serves else ' '} {clipped(visible(each.version), 9)}",
    "dense": _dense,
    "state": lambda each: f"{sign(each)} {_state(each)}",
    "size": lambda each: NOTHING if each.size_bytes is None else plain(words.size(each.size_bytes)),
    "date": lambda each: NOTHING if each.time_s is None else _day(each.time_s),
}
