"""The page's section on engines: what was built, how near it is to its model, and how it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from reprune.core.artifacts import EngineFact
from reprune.core.policy import ParityBounds
from reprune.report import svg, words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.measured import call_times
from reprune.report.sections import Section
from reprune.report.storage import storage_tables

MOST_ROWS = 300
MOST_LAYERS = 40
MOST_DRAWN = 12


def engines_section(facts: ReportFacts) -> Section | None:
    """Each engine's outputs against the model that it was built from, its build, and its start."""
    built = [fact for engines in facts.engines for fact in engines.engines][:MOST_ROWS]
    if not built:
        return None
    demanded = ""
    if facts.policy is not None:
        demanded = " " + " ".join(
            _demanded(precision, facts.policy.parity.bounds(precision))
            for precision in sorted({one.precision for one in built})
        )
    content = [_parity_table(facts, built)]
    starts = _start_rows(facts, built)
    if starts:
        content.append(_start_table(starts))
    phases = _phase_rows(facts, built)
    if phases:
        content.append(_phase_table(phases))
    content += storage_tables(facts)
    differing = [one for one in built if one.worst_layers]
    content += [
        svg.framed(_layers_figure(facts, one, place))
        for place, one in enumerate(differing[:MOST_DRAWN])
    ]
    notes = [note for one in built for note in _notes(facts, one)]
    if notes:
        content.append(details("How they were built", tag("ul", *notes)))
    return Section(
        key="parity",
        title="Engines",
        lead="Whether an engine computes what its model computes, on calibration examples, and how it "
        "begins." + demanded,
        content=tuple(content),
    )


def _parity_table(facts: ReportFacts, built: Sequence[EngineFact]) -> Safe:
    rows = [
        [
            _name(facts, one),
            esc(f"{one.runtime} {one.runtime_version}, {one.precision}"),
            esc(words.size(one.bytes)),
            esc(words.count(one.parity.examples)),
            esc(words.number(one.parity.max_abs, 2)),
            esc(f"{one.parity.cosine:.7f}"),
            esc(words.percent(one.parity.agreement, 1)),
        ]
        for one in built
    ]
    head = ["Engine", "Runtime", "Size", "Examples", "Largest difference", "Cosine", "Same answer"]
    return html_table("Engines against their models", head, rows, numbers=2)


def _start_rows(facts: ReportFacts, built: Sequence[EngineFact]) -> list[list[Safe]]:
    """Medians over fresh processes, and of the calls that were timed."""
    steady = {
        (given.target, times.arm): times.quantiles_ms[2]
        for given in (facts.evidence.targets if facts.evidence is not None else ())
        for times in call_times(given)
    }
    rows = []
    for one in built:
        starts = facts.starts.get(one.target, {}).get(one.arm, ())
        if starts:
            call_ms = steady.get((one.target, one.arm))
            rows.append(
                [
                    _name(facts, one),
                    esc(words.size(one.bytes)),
                    esc(words.milliseconds(median(start.load_ns for start in starts) / 1e6)),
                    esc(words.milliseconds(median(start.first_call_ns for start in starts) / 1e6)),
                    esc("" if call_ms is None else words.milliseconds(call_ms)),
                    esc(words.size(median(start.peak_bytes for start in starts))),
                ]
            )
    return rows


def _start_table(rows: list[list[Safe]]) -> Safe:
    head = ["Engine", "Size", "Load", "First call", "Later calls", "Peak memory"]
    return html_table(
        "How engines begin, in fresh processes; the file was in memory", head, rows, numbers=1
    )


def _phase_rows(facts: ReportFacts, built: Sequence[EngineFact]) -> list[list[Safe]]:
    """Medians over fresh processes, of engines whose sessions time themselves on an accelerator."""
    rows = []
    for one in built:
        starts = facts.starts.get(one.target, {}).get(one.arm, ())
        told = [start.phases for start in starts if start.phases]
        clocks = {start.clock for start in starts if start.clock}
        if told or clocks:
            parts = [(each.h2d_us, each.compute_us, each.d2h_us) for each in told]
            medians = [median(values) for values in zip(*parts, strict=True)]
            rows.append(
                [
                    _name(facts, one),
                    tag("bdi", esc(words.listing(sorted(clocks)), 160)),
                    *(esc(words.milliseconds(us / 1e3)) for us in medians),
                    *[esc("")] * (3 - len(medians)),
                ]
            )
    return rows


def _phase_table(rows: list[list[Safe]]) -> Safe:
    head = ["Engine", "Calls are timed by", "Inputs in", "Computing", "Outputs out"]
    return html_table("What a call on the accelerator is made of", head, rows, numbers=2)


def _layers_figure(facts: ReportFacts, one: EngineFact, place: int) -> svg.Figure:
    """The layers of one engine that are furthest from the model's, the furthest first."""
    layers = sorted(one.worst_layers or (), key=lambda each: -each.relative)[:MOST_LAYERS]
    name = f"{words.baseline_name(one.arm, facts)}, {one.target}"
    scale = svg.Scale(low=0.0, high=layers[0].relative or 1.0, start=230, end=650)
    marks: list[Safe] = []
    for index, each in enumerate(layers):
        y = 8 + 24.0 * index
        end = scale.at(each.relative)
        marks += [
            svg.label(0, y + 13, each.layer, limit=32),
            svg.box(230, y + 2, end - 230, 15, "bar"),
            svg.label(end + 8, y + 14, words.number(each.relative, 2), "tick"),
        ]
    rows = [
        [tag("bdi", esc(each.layer, 120)), esc(words.number(each.relative, 3))] for each in layers
    ]
    return svg.Figure(
        key=f"layers-{place}",
        title=f"Which layers differ most, {name}",
        description=f"{words.plural(len(layers), 'layer')} of the engine, the furthest from the model first.",
        how="A bar is the difference of a layer's outputs over their size, on calibration examples: 0.01 is "
        "one hundredth. Errors add up on the way: of bars of about one length, look at the layer that runs "
        "first.",
        height=14 + 24.0 * len(layers),
        marks=tuple(marks),
        numbers=html_table(f"Layers of {name}", ["Layer", "Relative difference"], rows, numbers=1),
    )


def _notes(facts: ReportFacts, one: EngineFact) -> Iterator[Safe]:
    """What the build chose and found, a list item each."""
    built = one.built
    said: list[str] = []
    if built:
        if built.float_layers:
            listed = words.listing(list(built.float_layers[:MOST_LAYERS]))
            more = len(built.float_layers) - MOST_LAYERS
            said.append(f"left in float: {listed}" + (f" and {more} more" if more > 0 else ""))
        if built.sparsity:
            said.append(f"makes use of {built.sparsity} sparsity")
        if built.fallbacks:
            said.append(f"{words.plural(built.fallbacks, 'layer')} run elsewhere than asked")
        said += built.notes
        said += [f"{key}: {value}" for key, value in built.details.items()]
    for sentence in said:
        yield tag("li", _name(facts, one), esc(": "), esc(sentence, 800))


def _name(facts: ReportFacts, one: EngineFact) -> Safe:
    return tag("bdi", esc(f"{words.baseline_name(one.arm, facts)}, {one.target}"))


def _demanded(precision: str, bounds: ParityBounds) -> str:
    distance = "" if bounds.max_abs is None else f"a difference of {bounds.max_abs:g} at the most, "
    return (
        f"In {precision} the policy asks for {distance}a cosine of {bounds.min_cosine:g} and the same "
        f"answer on {words.percent(bounds.min_agreement, 0)} of the examples."
    )
