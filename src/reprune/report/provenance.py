"""The page's sections on where the evidence comes from: data, engines, lineage, machine, method."""

from __future__ import annotations

from collections.abc import Iterator

from reprune.core.artifacts import DataReport
from reprune.report import words
from reprune.report.facts import ReportFacts
from reprune.report.markup import Safe, details, esc, tag
from reprune.report.markup import table as html_table
from reprune.report.method import method_lines
from reprune.report.phrases import as_html
from reprune.report.sections import Section

MOST_ROWS = 300


def data_section(facts: ReportFacts) -> Section | None:
    """The data contract, the splits, and how likely the policy could pass a good model at all."""
    data = facts.data
    if data is None:
        return None
    failed = [one for one in data.expectations if not one.success]
    every = words.plural(len(data.expectations), "expectation")
    lead = f"{len(data.expectations) - len(failed)} of {every} held."
    return Section(
        key="data",
        title="The data contract",
        lead=lead,
        content=(_expectations(data), _splits(data), *_power(data)),
    )


def lineage_section(facts: ReportFacts) -> Section:
    """Every artefact that the verdict rests on, by digest, from the dense model to the verdict."""
    links = [
        tag(
            "li",
            tag("strong", esc(name)),
            Safe(" "),
            tag("small", esc(note)),
            tag("span", tag("code", esc(digest)), class_="digest"),
        )
        for name, note, digest in _links(facts)
    ]
    return Section(
        key="lineage",
        title="Lineage",
        lead="Each artefact names its parents by digest. Nothing here can be exchanged without the "
        "verdict's own digest changing.",
        content=(tag("ol", *links, class_="chain"),),
    )


def machine_section(facts: ReportFacts) -> Section:
    """Where and how it was measured."""
    rows: list[list[Safe]] = []
    for given in facts.evidence.targets if facts.evidence is not None else ():
        machine = given.machine
        loads = [unit.load for unit in given.units]
        rows.append(
            [
                tag("bdi", esc(given.target, 80)),
                esc(machine.accelerator or "none"),
                esc(machine.cpu),
                esc(machine.logical_cpus),
                esc(machine.os),
                esc(f"{min(loads):.2f} to {max(loads):.2f}" if loads else words.EN_DASH),
            ]
        )
    head = ["Target", "Accelerator", "Processor", "CPUs", "System", "Load while measuring"]
    content = [html_table("Machines", head, rows)] if rows else []
    if facts.lock is not None:
        lock = facts.lock
        pinned = [
            ("Reprune", lock.reprune),
            ("Data", lock.data_version),
            ("Registry", lock.registry),
        ]
        pinned += [(f"Image {name}", digest) for name, digest in lock.images.items()]
        cells = [[esc(name), tag("bdi", esc(value))] for name, value in pinned]
        content.append(html_table("What the lock pins", ["", "Version"], cells))
    lines = tag("ul", *(tag("li", as_html(line)) for line in method_lines(facts)))
    return Section(
        key="method",
        title="Environment and method",
        lead="How it was measured, on what, and how to judge the same samples again.",
        content=(lines, *content),
    )


def _expectations(data: DataReport) -> Safe:
    ordered = sorted(data.expectations, key=lambda one: (one.success, one.severity != "critical"))
    rows = []
    for one in ordered[:MOST_ROWS]:
        word, css = ("held", "pass") if one.success else ("failed", "block")
        if not one.success and one.severity == "warning":
            word, css = "warning", "inconclusive"
        rows.append(
            [
                esc(one.name),
                esc(one.split),
                tag("span", esc(word), class_=f"chip {css}"),
                esc(one.observed),
            ]
        )
    return html_table("Expectations", ["Expectation", "Split", "Outcome", "Observed"], rows)


def _splits(data: DataReport) -> Safe:
    rows = [
        [
            esc(name),
            esc(words.count(split.examples)),
            esc(len(split.classes) or words.EN_DASH),
            esc(sum(len(values) for values in split.slices.values()) or words.EN_DASH),
            esc(words.EN_DASH if split.sources is None else words.count(split.sources)),
            tag("code", esc(words.short(split.digest))),
        ]
        for name, split in data.splits.items()
    ]
    head = ["Split", "Examples", "Classes", "Slices", "Sources", "Digest"]
    return html_table("Splits", head, rows, numbers=1)


def _power(data: DataReport) -> Iterator[Safe]:
    if not data.power:
        return
    rows = [
        [
            esc(one.rule),
            esc(words.count(one.examples)),
            esc(words.percent(one.flips, 1)),
            esc(words.percent(one.pass_if_equal, 0)),
            esc(words.percent(one.pass_if_third_lost, 0)),
        ]
        for one in data.power
    ]
    head = ["Demand", "Examples", "Flips assumed", "Passes if nothing was lost"]
    yield details(
        "How likely this policy passes a good model",
        html_table("Power", [*head, "Passes if a third of the margin was lost"], rows, numbers=1),
    )


def _engine_files(facts: ReportFacts, index: int) -> Iterator[tuple[str, str, str]]:
    """The candidate's engine file for each target of one build: what will be shipped."""
    if index < len(facts.engines):
        built = facts.engines[index]
        for one in built.engines:
            if one.arm == "candidate" and one.file in built.payload:
                yield "engine file", f"of the candidate, for {one.target}", built.payload[one.file]


def _links(facts: ReportFacts) -> Iterator[tuple[str, str, str]]:
    """Name, a word about it, and digest, in the order in which they were made."""
    parents = facts.verdict.parents
    notes = {
        "dense": f"the retrained model, {words.full_version(facts.verdict.dense_version)}",
        "data": "the data contract's result",
        "profiles": "what the dense model costs",
        "table": "the sensitivity table",
        "chosen": "the plan",
        "pruned": "the model after the cut",
        "candidate": "the model after recovery, under judgement",
        "previous": "what the registry knew",
        "engines": "all models as built",
        "benchmarks": "samples and records",
    }
    order = {name: place for place, name in enumerate(notes)}
    for name in sorted(parents, key=lambda key: (order.get(key.partition(".")[0], 99), key)):
        kind = name.partition(".")[0]
        yield kind, notes.get(kind, ""), parents[name]
        if kind == "engines":
            yield from _engine_files(facts, int(name.rpartition(".")[2] or 0))
    yield "lock", "names the run", facts.verdict.lock
    yield "policy", "what was demanded", facts.verdict.policy
    if facts.evidence is not None:
        yield "evaluation set", "sealed until the benchmark", facts.evidence.quality.eval_digest
    yield "verdict", "this decision", facts.digest
