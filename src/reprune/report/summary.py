"""The Markdown sections that can be shortened: slices, and what was cut and recovered."""

from __future__ import annotations

from collections.abc import Iterator

from reprune.core.artifacts import SliceResult
from reprune.report import plain, words
from reprune.report.asked import gentler_words, tried_cuts
from reprune.report.facts import ReportFacts
from reprune.report.masked import masked_lines, masked_tensors, masked_words
from reprune.report.measured import Expected, expected_losses
from reprune.report.phrases import as_markdown
from reprune.report.predicted import predicted_lines
from reprune.report.slices import compared, groups, newest, ordered, spread

MOST_GROUPS = 10
_SLICE_STATE = {
    "ok": "✅ ok",
    "harm": "❌ harmed",
    "undecided": "❔ undecided",
    "not judged": f"{words.NOT_DECIDING} not judged",
}


def slice_lines(facts: ReportFacts, *, ok: bool, harmed: int, name: int) -> Iterator[str]:
    """Harmed slices in the open, the worst first; the others folded away, or only counted."""
    slices = facts.judgement.slices
    if not slices:
        return
    worst = words.moved(facts.judgement)
    if worst:
        shown = worst[:harmed]
        yield from ("**Slices that moved**", "", *_slice_table(facts, shown, name))
        if len(worst) > len(shown):
            yield from ("", f"{len(worst) - len(shown)} more harmed slices are in the HTML report.")
        yield ""
    for line in newest(facts)[:4]:
        yield from (as_markdown(line), "")
    others = [one for one in ordered(facts) if one.outcome != "harm"]
    counts = {kind: sum(s.outcome == kind for s in slices) for kind in _SLICE_STATE}
    tally = f"Slices: {counts['ok']} ok, {counts['harm']} harmed, {counts['not judged']} not judged"
    tally += f", {counts['undecided']} undecided" if counts["undecided"] else ""
    if ok and others:
        yield from plain.fold(tally, _slice_table(facts, others, name))
    else:
        yield from (f"{tally}.", "")


def plan_lines(facts: ReportFacts, *, full: bool, name: int) -> Iterator[str]:
    """What was cut in one line, the groups that were cut most, and how recovery went."""
    costs = facts.costs
    groups = expected_losses(facts.plan, facts.table, facts.surgery)
    if costs is None and not groups:
        return
    cut = sorted((one for one in groups if one.keep < one.width), key=lambda one: one.kept)
    masked = masked_tensors(facts)
    title = f"What was cut: {len(cut)} of {words.plural(len(groups), 'group')}"
    if masked:
        title = f"What was cut: {masked_words(masked)}"
    gentler = gentler_words(facts)
    if gentler:
        title += f", {gentler}"
    if costs is not None:
        title += f"; {_cost_words(facts)}"
    if not full:
        yield from (f"{title}.", "")
        return
    lines: list[str] = masked_lines(masked, MOST_GROUPS, name) if masked else []
    if cut:
        shown = cut[:MOST_GROUPS]
        lines += plain.table(
            ["Group", "channels", "kept", "expected loss added"],
            [_group_row(one, name) for one in shown],
            numbers=1,
        )
        if len(cut) > len(shown):
            lines += ["", f"{len(cut) - len(shown)} more groups were cut less than these."]
    lines += [line for step in tried_cuts(facts) for line in ("", plain.text(step, 300))]
    lines += _recovery_lines(facts)
    lines += [part for line in predicted_lines(facts) for part in ("", line)]
    yield from plain.fold(title, lines)


def _slice_table(facts: ReportFacts, slices: list[SliceResult], name: int) -> list[str]:
    several = len(groups(facts)) > 1
    head = ["", "Slice", "examples", "got worse / better", "change (interval)"]
    rows = [_slice_row(one, name, compared(one, facts) if several else "") for one in slices]
    return plain.table(head, rows, numbers=2)


def _slice_row(one: SliceResult, name: int, about: str) -> list[str]:
    change = f"{words.points(one.change)} ({spread(one)})"
    if one.outcome == "not judged":
        change = "too few examples to judge"
    required = ", required" if one.required else ""
    return [
        f"{_SLICE_STATE[one.outcome]}{required}",
        f"{plain.code(one.slice, name)} {plain.text(about, 2 * name)}".rstrip(),
        words.count(one.examples),
        words.both_ways(one),
        change,
    ]


def _group_row(one: Expected, name: int) -> list[str]:
    loss = "not measured" if one.loss is None else words.signed(one.loss, 2)
    return [
        plain.code(one.group, name),
        f"{one.width} → {one.keep}"
        + ("" if one.keep == one.planned else f" (planned {one.planned})"),
        words.percent(one.kept, 0),
        loss,
    ]


def _cost_words(facts: ReportFacts) -> str:
    before, after = facts.costs or (None, None)
    if before is None or after is None:
        return ""
    return (
        f"{words.big(before.macs)} → {words.big(after.macs)} MACs, "
        f"{words.big(before.params)} → {words.big(after.params)} parameters, "
        f"{words.size(before.bytes)} → {words.size(after.bytes)}"
    )


def _recovery_lines(facts: ReportFacts) -> list[str]:
    recovery = facts.recovery
    if recovery is None or not recovery.epochs:
        return []
    best = next((one for one in recovery.epochs if one.epoch == recovery.best_epoch), None)
    first = recovery.epochs[0]
    text = f"Recovery: loss on `tune` {words.number(first.tune_loss)} after epoch {first.epoch}, "
    if best is None:
        text += "and no epoch was better than the model as it was cut, which was kept"
    else:
        text += f"{words.number(best.tune_loss)} after epoch {best.epoch}, which was kept"
    epochs = words.plural(len(recovery.epochs), "epoch")
    return ["", f"{text}; {epochs}, {words.count(recovery.examples)} examples seen."]
