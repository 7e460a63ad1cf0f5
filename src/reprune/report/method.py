"""How it was measured and how to do it again, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from reprune.report import advice, words
from reprune.report.facts import ReportFacts
from reprune.report.measured import flips
from reprune.report.phrases import Code, Phrase, sentence


def method_lines(facts: ReportFacts) -> list[Phrase]:
    """What was measured on what, then the command that judges the same samples again."""
    return [
        *_quality(facts),
        *_latency(facts),
        *_looks(facts),
        *[sentence(note) for note in facts.judgement.notes],
        ("Judge the same samples again, without training or measuring: ", Code(advice.RECOMPUTE)),
        *_identity(facts),
    ]


def _quality(facts: ReportFacts) -> Iterator[Phrase]:
    if facts.evidence is None:
        return
    examples = words.count(len(facts.evidence.quality.ids))
    yield (f"Quality: the same {examples} sealed examples through every model.",)
    for one in flips(facts.evidence):
        yield (
            f"Against {words.baseline_name(one.baseline, facts)} on ",
            Code(one.target),
            f": {one.became_wrong} became wrong, {one.became_right} became right, "
            f"{words.count(one.both_right)} right and {words.count(one.both_wrong)} wrong with both.",
        )


def _latency(facts: ReportFacts) -> Iterator[Phrase]:
    if facts.evidence is None:
        return
    for given in facts.evidence.targets:
        processes = len({unit.process for unit in given.units})
        yield (
            "Latency on ",
            Code(given.target),
            f": {words.plural(len(given.units), 'unit')} of freshly made sessions, interleaved, in "
            f"{words.plural(processes, 'process', 'processes')}; batch {given.batch_size}; "
            f"{given.machine.accelerator or given.machine.cpu}, {given.machine.os}.",
        )


def _looks(facts: ReportFacts) -> Iterator[Phrase]:
    judgement = facts.judgement
    yield (
        f"This was attempt {judgement.attempt} on the sealed examples for dense "
        f"{words.version(facts.verdict.dense_version)}; its error rate is {judgement.alpha:.3g} "
        "for each side. A passed rule has its whole interval inside the limit, a blocked one outside.",
    )


def _identity(facts: ReportFacts) -> Iterator[Phrase]:
    named: list[tuple[str, str]] = [
        ("lock", facts.verdict.lock),
        ("policy", facts.verdict.policy),
    ]
    if facts.evidence is not None:
        named.append(("evaluation set", facts.evidence.quality.eval_digest))
        named += [(arm, digest) for arm, digest in facts.evidence.arms.items()]
    phrase: list[str | Code] = []
    for index, (name, digest) in enumerate(named):
        phrase += [", " if index else "Digests: ", f"{name} ", Code(words.short(digest))]
    yield (*phrase, ".")
