"""The page's sections on what was demanded, measured and cut. One that has nothing to show is None."""

from __future__ import annotations

from dataclasses import dataclass

from reprune.core.artifacts import Cost
from reprune.report import svg, words
from reprune.report.asked import MOST_ROWS, asked_part, gentler_words
from reprune.report.cuts import recovery_figure, sensitivity_figure, widths_figure
from reprune.report.facts import ReportFacts
from reprune.report.flips import MOST_SHOWN, changed_tables, flips_figure, shown_examples
from reprune.report.forests import rules_figure, rules_table
from reprune.report.guards import guards_table, tally, tripped
from reprune.report.layer_times import layer_time_figures, untold
from reprune.report.markup import Safe, details, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.masked import NO_PROMISE, masked_table
from reprune.report.phrases import as_html
from reprune.report.plan_change import change_table
from reprune.report.repairs import done_words, losses_table
from reprune.report.slices import newest, ordered, slice_figures, slices_table
from reprune.report.timings import call_figures, operator_figures, ratio_figures

_BUDGETS = {
    "macs": "multiply-accumulates",
    "params": "parameters",
    "latency": "latency",
    "weights": "weights that may be masked",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """`lead` says in a sentence or two what the section shows; `key` is its anchor."""

    key: str
    title: str
    lead: str
    content: tuple[Safe, ...]


def demands_section(facts: ReportFacts) -> Section:
    """Always there: the policy's demands, in a table and seen from their limits."""
    rules = words.worst_first(facts.judgement.rules)
    passed = sum(one.outcome == "pass" for one in rules)
    figure = rules_figure(facts)
    content = [rules_table(facts)] if rules else []
    if figure is not None:
        content.append(svg.framed(figure))
    sentences = [tag("li", esc(one.words, 800)) for one in rules if one.words]
    decide = [tag("li", esc(one.decide, 800)) for one in rules if one.decide]
    if sentences:
        content.append(details("Each demand in words", tag("ul", *sentences, *decide)))
    return Section(
        key="demands",
        title="What was demanded, and what was measured",
        lead=f"{passed} of {words.plural(len(rules), 'demand')} passed. An arrow says which way is better."
        if rules
        else "No demand of the policy could be judged.",
        content=tuple(content),
    )


def latency_section(facts: ReportFacts) -> Section | None:
    """Ratios by unit, single calls, and the operators that take the time."""
    by_layer = list(layer_time_figures(facts))
    figures = [*ratio_figures(facts), *call_figures(facts), *by_layer]
    figures += operator_figures(facts)
    missing = [tag("p", esc(line), class_="meta") for line in untold(facts)]
    table = guards_table(facts)
    if not figures and not table:
        return None
    stopped = tripped(facts)
    trust = f" {tally(facts)}." if table else ""
    return Section(
        key="latency",
        title="Latency",
        lead="All models were measured in turn on one machine, each unit with freshly made sessions, "
        f"because two sessions of one model differ.{trust}",
        content=(
            *([table] if table and stopped else []),
            *(svg.framed(figure) for figure in figures),
            *missing,
            *(
                [details("What kept the measurement honest", table)]
                if table and not stopped
                else []
            ),
        ),
    )


def quality_section(
    facts: ReportFacts, *, show_examples: bool = False, most_shown: int = MOST_SHOWN
) -> Section | None:
    """Flips both ways, and slices; on demand the ids of the examples that changed."""
    flipped, by_slice = flips_figure(facts), slice_figures(facts)
    content = [tag("p", as_html(line)) for line in newest(facts)[:12]]
    content += [] if flipped is None else [svg.framed(flipped)]
    gallery = shown_examples(facts, most_shown)
    content += [] if gallery is None else [gallery]
    if show_examples:
        content += changed_tables(facts)
    content += [svg.framed(figure) for figure in by_slice]
    slices = facts.judgement.slices
    if slices and not by_slice:
        content.append(slices_table(ordered(facts), "Slices"))
    if not content:
        return None
    unjudged = sum(one.outcome == "not judged" for one in slices)
    harmed = sum(one.outcome == "harm" for one in slices)
    undecided = sum(one.outcome == "undecided" for one in slices)
    tally = ""
    if slices:
        tally = f" {harmed} of {words.plural(len(slices), 'slice')} harmed"
        tally += f", {undecided} undecided" if undecided else ""
        tally += f", {unjudged} too small to be judged alone." if unjudged else "."
    return Section(
        key="quality",
        title="Quality",
        lead=f"The same sealed examples went through every model.{tally}",
        content=tuple(content),
    )


def plan_section(facts: ReportFacts) -> Section | None:
    """What the plan cut, what it promised, and what came of it."""
    table = masked_table(facts)
    # Where weights are masked, every width is what it was.
    figure = widths_figure(facts) if table is None else None
    content = []
    if facts.costs is not None:
        content.append(_cost_table(facts, facts.costs))
    if table is not None:
        content += [table, tag("p", esc(NO_PROMISE))]
    if figure is not None:
        content.append(svg.framed(figure))
    content += asked_part(facts)
    changed = change_table(facts)
    if changed is not None:
        content.append(changed)
    if not content:
        return None
    lead = "What was cut out of the dense model."
    if facts.plan is not None:
        plan = facts.plan
        lead = (
            f"The allocator “{plan.allocator}” was asked to leave {words.percent(plan.fraction, 0)} "
            f"of the dense model's {_BUDGETS.get(plan.budget, plan.budget)}."
        )
    gentler = gentler_words(facts)
    if gentler:
        lead += f" {words.sentence_case(gentler)}."
    return Section(key="plan", title="The plan", lead=lead, content=tuple(content))


def sensitivity_section(facts: ReportFacts) -> Section | None:
    """What each cut alone would cost."""
    figure = sensitivity_figure(facts)
    if figure is None or facts.table is None:
        return None
    return Section(
        key="sensitivity",
        title="Sensitivity",
        lead=f"Measured on {words.plural(facts.table.examples, 'tuning example')} (never on the ones "
        f"that judge), by the criterion “{facts.table.criterion}”; the dense loss is "
        f"{words.number(facts.table.base_loss)}.",
        content=(svg.framed(figure),),
    )


def recovery_section(facts: ReportFacts) -> Section | None:
    """How the cut model was repaired and trained again."""
    content: list[Safe] = []
    surgery, recovery = facts.surgery, facts.recovery
    if surgery is not None:
        content.append(losses_table(surgery))
        for title, reasons in (
            ("Lost inputs, and kept their weights", surgery.unfitted),
            ("Run behind the cut, and kept their weights", surgery.left),
        ):
            if reasons:
                told = [[esc(name), esc(why)] for name, why in sorted(reasons.items())[:MOST_ROWS]]
                content.append(html_table(title, ["Layer", "Why"], told))
        if surgery.by_magnitude:
            names = [[esc(name)] for name in surgery.by_magnitude[:MOST_ROWS]]
            title = f"Masked by magnitude: {surgery.criterion} did not see their inputs"
            content.append(html_table(title, ["Tensor"], names))
    figure = recovery_figure(recovery) if recovery is not None else None
    if figure is not None:
        content.append(svg.framed(figure))
    if not content:
        return None
    seen = f" Training then saw {words.count(recovery.examples)} examples." if recovery else ""
    return Section(
        key="recovery",
        title="Repair and recovery",
        lead=f"{done_words(surgery)}{seen}",
        content=tuple(content),
    )


def _cost_table(facts: ReportFacts, costs: tuple[Cost, Cost]) -> Safe:
    dense, mine = costs
    given = [
        ("Multiply-accumulates, one example", words.big, dense.macs, mine.macs),
        ("Parameters", words.big, dense.params, mine.params),
        ("Stored parameters and buffers", words.size, dense.bytes, mine.bytes),
    ]
    rows = [
        [
            esc(name),
            esc(shown(before)),
            esc(shown(after)),
            esc(words.ratio(after / before) if before else words.EN_DASH),
        ]
        for name, shown, before, after in given
    ]
    if facts.plan is not None:
        said = facts.plan.predicted
        rows.append(
            [
                esc("Multiply-accumulates as the plan predicted them"),
                esc(words.big(facts.plan.before.macs)),
                esc(words.big(said.macs)),
                esc(
                    words.ratio(said.macs / facts.plan.before.macs)
                    if facts.plan.before.macs
                    else "?"
                ),
            ]
        )
    return html_table("Before and after", ["", "Dense", "Pruned", "Ratio"], rows, numbers=1)
