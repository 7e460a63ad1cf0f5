"""What the plan asked of each group and block beside what was done to it, in channels and in costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import UNSET, UnsetType

from reprune.core.artifacts import BlockCut, Cost, GroupCut, Surgery
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, tag
from reprune.report.markup import table as html_table

MOST_ROWS = 2000
MOST_STEPS = 20
_UNITS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("params", words.big),
    ("macs", words.big),
    ("bytes", words.size),
)


def gentler_words(facts: ReportFacts) -> str:
    """How many groups and blocks were cut less than planned; empty where all was done as it was asked."""
    surgery = facts.surgery
    if surgery is None or not surgery.gentler:
        return ""
    counts = [
        (sum(item.keep > item.requested for item in surgery.groups), "group"),
        (sum(not _is_gone(item, surgery) for item in surgery.block_cuts or ()), "block"),
    ]
    told = [words.plural(number, name) for number, name in counts if number]
    return f"gentler than planned in {words.listing(told)}, because the whole cut missed the bar"


def tried_cuts(facts: ReportFacts) -> list[str]:
    """What the ladder of gentler cuts tried, in its own words; empty where there was none."""
    surgery = facts.surgery
    if surgery is None or surgery.ladder is UNSET:
        return []
    return [f"Tried: {step}" for step in surgery.ladder[:MOST_STEPS]]


def asked_part(facts: ReportFacts) -> list[Safe]:
    """The cuts that were tried, and the table of what each took away: in the open where something was not
    done as it was asked, else on demand. Empty where no costs were counted.
    """
    surgery = facts.surgery
    if surgery is None:
        return []
    steps = [tag("li", esc(step, 400)) for step in tried_cuts(facts)]
    found = [tag("ul", *steps)] if steps else []
    rows = list(_rows(facts, surgery))
    if not rows:
        return found
    whole = sum(item.keep == item.requested == item.width for item in surgery.groups)
    others = f" {words.plural(whole, 'group')} not named here kept all channels." if whole else ""
    caption = (
        "What each cut took away of the dense model, of what it was to take away. Cuts share layers: each "
        f"is counted alone, and they do not add up.{others}"
    )
    head = ["Group or block", "Asked", "Done", "Parameters", "Multiply-accumulates", "Bytes"]
    table = html_table(caption, head, rows[:MOST_ROWS], numbers=1)
    if surgery.gentler:
        return [*found, table]
    cuts = words.plural(len(rows) - 1, "cut was made", "cuts were made")
    return [*found, details(f"Asked and done: {cuts} as planned", table)]


def _rows(facts: ReportFacts, surgery: Surgery) -> Iterator[list[Safe]]:
    """One for the whole model, one a block, one a group that was to be cut or was."""
    groups = [
        item for item in surgery.groups if item.keep < item.width or item.requested < item.width
    ]
    blocks = surgery.block_cuts or ()
    if not blocks and all(item.planned is UNSET for item in groups):
        return
    yield _whole(facts, surgery)
    for block in blocks:
        yield _row(
            block.block,
            "goes",
            "gone" if _is_gone(block, surgery) else "stays",
            (block.planned, block.removed),
        )
    for item in groups:
        yield _row(item.group, *_channels(item), (item.planned, item.removed))


def _whole(facts: ReportFacts, surgery: Surgery) -> list[Safe]:
    """All cuts together; the plan predicts no bytes."""
    plan, took = facts.plan, _less(surgery.before, surgery.after)
    cells = [_cell(None, took.bytes, words.size)]
    for unit in ("macs", "params"):
        asked = None if plan is None else getattr(plan.before, unit) - getattr(plan.predicted, unit)
        cells.insert(0, _cell(asked, getattr(took, unit), words.big))
    return [tag("strong", esc("All together")), esc(""), esc(""), *cells]


def _row(
    name: str, asked: str, done: str, costs: tuple[Cost | UnsetType, Cost | UnsetType]
) -> list[Safe]:
    planned, removed = costs
    cells = [
        esc(words.EN_DASH)
        if planned is UNSET or removed is UNSET
        else _cell(getattr(planned, unit), getattr(removed, unit), shown)
        for unit, shown in _UNITS
    ]
    differs = done not in (asked, "gone")
    told = tag("strong", esc(done)) if differs else esc(done)
    return [tag("bdi", esc(name, 120)), esc(asked), told, *cells]


def _channels(item: GroupCut) -> tuple[str, str]:
    return f"{item.width} → {item.requested}", f"{item.width} → {item.keep}"


def _cell(asked: int | None, done: int, shown: Callable[[float], str]) -> Safe:
    return esc(shown(done) if asked is None else f"{shown(done)} of {shown(asked)}")


def _is_gone(item: BlockCut, surgery: Surgery) -> bool:
    return item.block in (surgery.blocks or ())


def _less(before: Cost, after: Cost) -> Cost:
    return Cost(
        params=before.params - after.params,
        macs=before.macs - after.macs,
        bytes=before.bytes - after.bytes,
    )
