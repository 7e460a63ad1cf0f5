"""How it was measured and how to do it again, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from reprune.judge.evidence import HOST_CLOCK
from reprune.judge.words import waived
from reprune.report import advice, words
from reprune.report.facts import ReportFacts
from reprune.report.measured import flips
from reprune.report.phrases import Code, Phrase, sentence
from reprune.report.storage import storage_phrases


def method_lines(facts: ReportFacts) -> list[Phrase]:
    """What was measured on what, then the command that judges the same samples again."""
    return [
        *_quality(facts),
        *_latency(facts),
        *storage_phrases(facts),
        *_looks(facts),
        *_uses(facts),
        *[sentence(note) for note in notes(facts)],
        ("Judge the same samples again, without training or measuring: ", Code(advice.RECOMPUTE)),
        *_identity(facts),
    ]


def notes(facts: ReportFacts) -> list[str]:
    """The judge's notes, but for overrides: every report says those on top."""
    judgement, champion = facts.judgement, facts.verdict.champion
    held = () if judgement.waivers is UNSET else judgement.waivers
    bundle = champion.bundle if champion is not None else ""
    above = {waived(waiver, bundle) for waiver in held}
    return [note for note in judgement.notes if note not in above]


def _uses(facts: ReportFacts) -> Iterator[Phrase]:
    """How often the eval split was judged on, where it is known and nothing to be warned about."""
    evidence, policy = facts.evidence, facts.policy
    if evidence is None or policy is None or not 1 <= evidence.uses <= policy.eval.max_uses:
        return
    times = words.plural(evidence.uses, "time")
    yield (
        f"This eval split has been judged on {times}, this one included; the policy warns above "
        f"{policy.eval.max_uses}.",
    )


def _quality(facts: ReportFacts) -> Iterator[Phrase]:
    if facts.evidence is None:
        return
    examples = words.count(len(facts.evidence.quality.ids))
    yield (f"Quality: the same {examples} sealed examples through every model.",)
    for one in flips(facts.evidence):
        yield (
            f"Against {words.baseline_name(one.baseline, facts)} on ",
            Code(one.where),
            f": {one.became_wrong} became wrong, {one.became_right} became right, "
            f"{words.count(one.both_right)} right and {words.count(one.both_wrong)} wrong with both.",
        )


def _latency(facts: ReportFacts) -> Iterator[Phrase]:
    if facts.evidence is None:
        return
    for given in facts.evidence.targets:
        processes = len({unit.process for unit in given.units})
        clocks = sorted({unit.clock for unit in given.units} - {HOST_CLOCK})
        timed = f"; calls are timed by {words.listing(clocks)}" if clocks else ""
        yield (
            "Latency on ",
            Code(given.target),
            f": {words.plural(len(given.units), 'unit')} of freshly made sessions, interleaved, in "
            f"{words.plural(processes, 'process', 'processes')}; batch {given.batch_size}; "
            f"{given.machine.accelerator or given.machine.cpu}, {given.machine.os}{timed}.",
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
