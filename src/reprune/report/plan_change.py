"""What this plan does otherwise than the champion's: which groups are cut more, and which less."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msgspec import UNSET

from reprune.core.artifacts import Plan
from reprune.report import plain, words
from reprune.report.diff_figures import plan_figures
from reprune.report.differences import Amount, How
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, esc, tag, visible
from reprune.report.markup import table as html_table
from reprune.report.plan_knobs import plan_knobs

MOST_GROUPS = 10
MOST_ROWS = 400
_ORDER: tuple[How, ...] = ("cut more", "cut less", "new", "gone", "as before")


@dataclass(frozen=True, kw_only=True)
class Moved:
    """A group, a tensor or a block in the champion's plan and in this one: shares that are kept.

    `was` and `now` say it in the plan's own numbers; a share is None where a plan does not name the part.
    """

    part: str
    was: str
    now: str
    share_was: float | None
    share_now: float | None

    @property
    def how(self) -> How:
        if self.share_was is None:
            return "new"
        if self.share_now is None:
            return "gone"
        # Dense widths may differ from generation to generation, so shares are compared, not widths.
        if abs(self.share_now - self.share_was) < 1e-9:
            return "as before"
        return "cut more" if self.share_now < self.share_was else "cut less"


def moved_parts(facts: ReportFacts) -> tuple[Moved, ...]:
    """Every part of both plans, those that changed most first; empty where the champion's is not here."""
    if facts.plan is None or facts.past_plan is None:
        return ()
    return compared_parts(facts.past_plan, facts.plan)


def compared_parts(before: Plan, after: Plan) -> tuple[Moved, ...]:
    """Every part of two plans, those that changed most first."""
    was, now = _parts(before), _parts(after)
    found = [
        Moved(
            part=part,
            was=was[part][1] if part in was else words.EN_DASH,
            now=now[part][1] if part in now else words.EN_DASH,
            share_was=was[part][0] if part in was else None,
            share_now=now[part][0] if part in now else None,
        )
        for part in dict.fromkeys((*now, *was))
    ]
    return tuple(sorted(found, key=lambda one: (_ORDER.index(one.how), -_step(one))))


def change_words(facts: ReportFacts) -> str:
    """Against which champion, and how many parts are cut more and less; empty where there is none."""
    parts = moved_parts(facts)
    if not parts:
        return ""
    champion = words.baseline_name("champion", facts)
    counts = {how: sum(one.how == how for one in parts) for how in _ORDER}
    told = [f"{counts[how]} {how}" for how in _ORDER if counts[how]]
    knobs = "; ".join(_knobs(facts))
    return f"Plan against {champion}'s: {words.listing(told)}{f'; {knobs}' if knobs else ''}"


def change_lines(facts: ReportFacts, *, full: bool, name: int) -> Iterator[str]:
    """The plan's change in one line, and the groups that changed most; nothing without a champion's plan."""
    title = change_words(facts)
    if not title:
        return
    changed = [one for one in moved_parts(facts) if one.how != "as before"]
    if not full or not changed:
        yield from (f"{plain.text(title)}.", "")
        return
    rows = [
        [plain.code(one.part, name), plain.text(one.was), plain.text(one.now), one.how]
        for one in changed[:MOST_GROUPS]
    ]
    champion = plain.text(words.baseline_name("champion", facts))
    this = plain.text(words.baseline_name("candidate", facts))
    lines = plain.table(["Part", champion, this, ""], rows, numbers=1)
    if len(changed) > len(rows):
        lines += ["", f"{len(changed) - len(rows)} more changed less than these."]
    yield from plain.fold(plain.text(title), lines)


def change_table(facts: ReportFacts) -> Safe | None:
    """All parts of both plans, those that changed first."""
    parts = moved_parts(facts)
    if not parts:
        return None
    rows = [
        [tag("bdi", esc(one.part, 120)), esc(one.was), esc(one.now), esc(one.how)]
        for one in parts[:MOST_ROWS]
    ]
    champion = words.baseline_name("champion", facts)
    head = ["Part", champion, words.baseline_name("candidate", facts), "This plan"]
    return html_table(f"{change_words(facts)}", head, rows, numbers=1)


def _parts(plan: Plan) -> dict[str, tuple[float, str]]:
    """By name, the share that is kept and how the plan says it."""
    left = plan.left
    found = {
        group.group: (left.get(group.group, 1.0), f"{group.keep} of {group.width}")
        for group in plan.groups
    }
    found |= {
        name: (0.0, "gone with its block" if name in found else "removed")
        for name, share in left.items()
        if share == 0.0
    }
    if plan.sparsity is not UNSET:
        for tensor in plan.sparsity.tensors:
            kept = 1 - tensor.zeros / tensor.size if tensor.size else 1.0
            found[tensor.tensor] = (kept, f"{words.percent(1 - kept, 1)} zeros")
    return found


def _step(one: Moved) -> float:
    return abs((one.share_now or 0.0) - (one.share_was or 0.0))


def _knobs(facts: ReportFacts) -> Iterator[str]:
    """What both plans were asked for and expect beside the parts, where that is not the same."""
    was, now = facts.past_plan, facts.plan
    if was is None or now is None:
        return
    for knob in plan_knobs(was, now):
        if knob.key == "fraction":
            yield f"asked to leave {words.percent(now.fraction, 0)}, before {words.percent(was.fraction, 0)}"
        else:
            yield f"{visible(knob.key, 80)} {visible(knob.after, 80)}, before {visible(knob.before, 80)}"
    for one in plan_figures(was, now):
        if one.before != one.after and one.unit in _EXPECTED:
            ends = [_EXPECTED[one.unit](end) for end in (one.after, one.before)]
            on = f" on {visible(one.target, 40)}" if one.target else ""
            yield f"{one.what}{on} {ends[0]}, before {ends[1]}"


def _shown(show: Callable[[float], str]) -> Callable[[Amount | None], str]:
    return lambda amount: "not known" if amount is None else show(amount.value)


# What a plan says of its speed, and of how good it is among plans; the rest stands elsewhere.
_EXPECTED = {"ratio": _shown(words.ratio), "share": _shown(words.percent)}
