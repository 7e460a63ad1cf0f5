"""From artefacts to evidence: one pure function of what the benchmark left and what the lock says.

The gate calls it on the run's artefacts, `recompute` on the copies in a verdict directory; both give
the same bytes. Whatever makes the evidence unusable becomes a Problem: the outcome is then `error`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import UNSET

from reprune.core.artifacts import WEIGHTS, Engines, Manifest, Profile, TargetSamples
from reprune.core.documents import digest_of
from reprune.core.step import knobs_digest
from reprune.judge.evidence import (
    ArmRecords,
    BatchUnits,
    Evidence,
    Problem,
    QualityEvidence,
    TargetEvidence,
)
from reprune.steps import STEPS, get_step, past
from reprune.steps.grounds import Grounds
from reprune.steps.samples import (
    EXAMPLES_FILE,
    RECORDS_FILE,
    ExamplesFile,
    read_examples,
    read_memory,
    read_records,
    read_units,
)
from reprune.steps.soundness import soundness_problems


def assemble(grounds: Grounds) -> Evidence:
    """The evidence as a value; a function of the manifests and sample bytes alone.

    Raises PayloadCorrupt or DocumentError for samples that do not decode.
    """
    problems = [
        *_lock_problems(grounds),
        *_chain_problems(grounds),
        *_machine_problems(grounds),
        *_producer_problems(grounds),
    ]
    quality, trouble = _quality(grounds)
    targets = tuple(
        TargetEvidence(
            target=samples.target,
            machine=samples.machine or measured.manifest.machine,
            batch_size=samples.batch_size,
            units=read_units(measured.file(samples.file)),
            throughput=tuple(
                BatchUnits(batch_size=one.batch_size, units=read_units(measured.file(one.file)))
                for one in samples.throughput or ()
            ),
            memory=read_memory(measured.file(samples.memory)) if samples.memory else {},
        )
        for measured in grounds.benchmarks
        for samples in measured.manifest.targets
    )
    problems += soundness_problems(grounds, quality, targets)
    champion = grounds.previous.champion
    return Evidence(
        name=grounds.lock.name,
        dense_version=grounds.lock.dense.version,
        champion_version=champion.version if champion else None,
        seed=digest_of(
            [grounds.lock.dense.version, grounds.lock.dense.weights, quality.eval_digest]
        ),
        attempt=max(measured.manifest.attempt for measured in grounds.benchmarks),
        arms=_arms(grounds),
        engines=tuple(fact for m in grounds.benchmarks for fact in m.manifest.engines),
        targets=targets,
        quality=quality,
        power=grounds.data.power,
        problems=(*problems, *trouble),
        uses=past.eval_uses(
            grounds.previous,
            quality.eval_digest,
            [measured.manifest.uses or 0 for measured in grounds.benchmarks],
        ),
        champion_newest=past.champion_newest(grounds.previous),
        contract=grounds.data.expectations,
        waivers=past.waivers(grounds.previous),
    )


def _arms(grounds: Grounds) -> dict[str, str]:
    arms: dict[str, str] = {}
    for measured in grounds.benchmarks:
        arms |= measured.manifest.arms
    return arms


def _quality(grounds: Grounds) -> tuple[QualityEvidence, list[Problem]]:
    """The records of all benchmarks side by side; they must be of the same examples."""
    arms: dict[str, ArmRecords] = {}
    examples: list[ExamplesFile] = []
    problems = []
    for measured in grounds.benchmarks:
        examples.append(read_examples(measured.file(EXAMPLES_FILE)))
        for key, columns in sorted(read_records(measured.file(RECORDS_FILE)).items()):
            # Every benchmark records the dense model as trained: the first one's are judged.
            if key in arms and key != "dense":
                problems.append(Problem(code="records", words=f"Two benchmarks recorded {key}."))
            arms.setdefault(key, ArmRecords(columns=columns))
    first = examples[0]
    if any(other != first for other in examples[1:]):
        problems.append(
            Problem(code="examples", words="The benchmarks did not judge the same examples.")
        )
    evals = {measured.manifest.recorded.eval_digest for measured in grounds.benchmarks}
    declared = grounds.data.splits.get("eval")
    if declared is None or evals != {declared.digest}:
        problems.append(
            Problem(
                code="eval_digest",
                words="The judged examples are not the eval split that the data report describes.",
            )
        )
    return (
        QualityEvidence(
            eval_digest=sorted(evals)[0],
            ids=first.ids,
            slices=first.slices,
            sources=first.sources,
            arms=arms,
            dropped=grounds.benchmarks[0].manifest.recorded.dropped or {},
            times=first.times,
        ),
        problems,
    )


def _lock_problems(grounds: Grounds) -> Iterator[Problem]:
    """What the run was given against what the lock pins."""
    lock, dense = grounds.lock, grounds.dense
    champion = None if lock.champion == "none" else lock.champion
    anchor = None if lock.anchor == "none" else lock.anchor
    pinned = {
        "params.yaml": (lock.params, digest_of(grounds.params)),
        "policy.yaml": (lock.policy, digest_of(grounds.policy)),
        "the task": (lock.task, dense.task.digest),
        "the task's data": (lock.data_version, grounds.data.task.data_version),
        "the dense version": (lock.dense.version, dense.dense_version),
        "the members": (
            {member: ref.name for member, ref in (lock.dense.members or {}).items()},
            grounds.params.members or {},
        ),
        "the members' versions": (
            [lock.dense.members] * 3,
            [bundle.members for bundle in (dense, grounds.pruned, grounds.candidate)],
        ),
        "the dense weights": (lock.dense.weights, dense.payload.get(WEIGHTS, "")),
        "the champion": (champion, grounds.previous.champion),
        "the anchor": (anchor, grounds.previous.anchor),
        "the model's name": (lock.name, dense.name),
        "the targets": (sorted(lock.targets), sorted(grounds.params.targets)),
    }
    for what, (wanted, found) in pinned.items():
        if wanted != found:
            yield Problem(
                code="stale_lock",
                words=f"The lock pins another state of {what} than the one that was used: "
                "run `reprune update`, then `dvc repro`.",
            )
    failed = [e for e in grounds.data.expectations if not e.success and e.severity == "critical"]
    if failed or not grounds.data.passed:
        words = f" {failed[0].observed}" if failed else ""
        yield Problem(code="data_contract", words=f"The data contract failed.{words}")


def _chain_problems(grounds: Grounds) -> Iterator[Problem]:
    """Every artefact must descend from the very artefacts that lie beside it."""
    digests = grounds.digests
    links: list[tuple[Manifest, str, str]] = [
        (grounds.candidate, "student", "pruned"),
        (grounds.candidate, "teacher", "dense"),
        (grounds.candidate, "data", "data"),
        (grounds.pruned, "dense", "dense"),
        (grounds.pruned, "chosen", "chosen"),
        (grounds.pruned, "data", "data"),
        (grounds.chosen, "dense", "dense"),
        (grounds.chosen, "table", "table"),
        (grounds.chosen, "previous", "previous"),
        (grounds.table, "dense", "dense"),
        (grounds.data, "dense", "dense"),
        (grounds.data, "previous", "previous"),
    ]
    # These may take over what the champion's generation learnt. Before they could, they had no such
    # parent, and verdicts of that time are still computed again.
    links += [
        (child, "previous", "previous")
        for child, took in (
            (grounds.table, grounds.table.reuse),
            (grounds.candidate, _known(grounds)),
            *((profile, _tables_reused(profile)) for profile in grounds.profiles),
        )
        if "previous" in child.parents or took is not UNSET
    ]
    for engines in grounds.engines:
        links += [(engines, name, name) for name in ("candidate", "dense", "previous", "data")]
    for measured in grounds.benchmarks:
        links += [(measured.manifest, name, name) for name in ("dense", "previous", "data")]
    links += [(grounds.table, "data", "data")]
    links += [(p, name, name) for p in grounds.profiles for name in ("dense", "data")]
    links += [
        (grounds.chosen, f"profiles.{place}", f"profiles.{place}")
        for place in range(len(grounds.profiles))
    ]
    for child, parent, given in links:
        if child.parents.get(parent) != digests[given]:
            yield Problem(
                code="chain",
                words=f"The {type(child).__name__} of step '{child.producer.step}' was not made from "
                f"the {parent} that it is judged with: run `dvc repro`.",
            )
    yield from _list_problems(grounds)
    known = {digests[name] for name in digests if name.startswith("engines.")}
    for measured in grounds.benchmarks:
        if measured.manifest.parents.get("engines") not in known:
            yield Problem(code="chain", words="A benchmark ran engines that are not judged here.")
        expected = _expected_arms(grounds)
        for arm in sorted({*expected, *measured.manifest.arms}):
            if measured.manifest.arms.get(arm) != expected.get(arm):
                yield Problem(code="arm", words=f"A benchmark measured another {arm}, or none.")


def _tables_reused(profile: Profile) -> object:
    """What a profile says of where its latency tables come from; UNSET where nobody asked."""
    return next((one.reuse for one in profile.tables or () if one.reuse is not UNSET), UNSET)


def _known(grounds: Grounds) -> object:
    """What the candidate's recovery says that it took over from the champion's; UNSET for nothing."""
    recovery = grounds.candidate.recovery
    return UNSET if recovery is None else recovery.known


def _list_problems(grounds: Grounds) -> Iterator[Problem]:
    """The lists hold every machine's artefact once: none is left out, none is there twice."""
    for name in ("benchmarks", "engines", "profiles"):
        listed = _listed(grounds.digests, name)
        if len(set(listed)) != len(listed):
            yield Problem(code="chain", words=f"One of the {name} is handed in twice.")
    planned = {name for name in grounds.chosen.parents if name.startswith("profiles.")}
    if planned != {name for name in grounds.digests if name.startswith("profiles.")}:
        yield Problem(
            code="chain",
            words="The plan was made from more or fewer profiles than are judged here.",
        )
    run = {measured.manifest.parents.get("engines") for measured in grounds.benchmarks}
    if set(_listed(grounds.digests, "engines")) - run:
        yield Problem(code="chain", words="Engines are judged here that no benchmark ran.")


def _expected_arms(grounds: Grounds) -> dict[str, str]:
    """The bundles that must have been measured: no more, no fewer, no others."""
    arms = {name: grounds.digests[name] for name in ("candidate", "dense")}
    promoted = {"champion": grounds.previous.champion, "anchor": grounds.previous.anchor}
    return arms | {arm: ref.bundle for arm, ref in promoted.items() if ref is not None}


def _machine_problems(grounds: Grounds) -> Iterator[Problem]:
    """Samples are compared only within one machine, on engines built for it; and a target was measured
    where params.yaml says that its device is.
    """
    built = dict(zip(_listed(grounds.digests, "engines"), grounds.engines, strict=True))
    seen: dict[str, str] = {}
    for measured in grounds.benchmarks:
        engines = built.get(measured.manifest.parents.get("engines", ""))
        for samples in measured.manifest.targets:
            yield from _reached_problems(grounds, samples)
            instance = (samples.machine or measured.manifest.machine).instance
            target = grounds.params.targets.get(samples.target)
            # An engine that goes out in a kit runs anywhere, or it would not have been built here.
            if engines and not (target and target.kit):
                yield from _built_elsewhere(engines, samples, instance)
            if seen.setdefault(samples.target, instance) != instance:
                yield Problem(
                    code="machine",
                    words=f"Target {samples.target} was measured on two machines; "
                    "samples of different machines are never compared.",
                )


def _reached_problems(grounds: Grounds, samples: TargetSamples) -> Iterator[Problem]:
    target = grounds.params.targets.get(samples.target)
    if target and bool(samples.machine) != bool(target.run or target.kit):
        where = "on a device of its own" if samples.machine else "on the machine of the benchmark"
        yield Problem(
            code="machine",
            words=f"Target {samples.target} was measured {where}, which is not where params.yaml says "
            "that it runs.",
        )


def _built_elsewhere(engines: Engines, samples: TargetSamples, instance: str) -> Iterator[Problem]:
    machines = {
        (fact.machine or engines.machine).instance
        for fact in engines.engines
        if fact.target == samples.target
    }
    if machines - {instance}:
        yield Problem(
            code="machine",
            words=f"Engines for {samples.target} were built on one machine and measured on another.",
        )


def _producer_problems(grounds: Grounds) -> Iterator[Problem]:
    """One Reprune version, and each step run with the knobs that params.yaml holds now."""
    manifests: list[Manifest] = [
        grounds.candidate,
        grounds.pruned,
        grounds.dense,
        grounds.previous,
        grounds.data,
        grounds.chosen,
        grounds.table,
        *grounds.engines,
        *grounds.profiles,
        *(measured.manifest for measured in grounds.benchmarks),
    ]
    versions = {manifest.producer.version for manifest in manifests}
    if versions != {grounds.lock.reprune}:
        yield Problem(
            code="versions",
            words=f"Made by Reprune {', '.join(sorted(versions))}, "
            f"the lock pins {grounds.lock.reprune}: run all steps with one version.",
        )
    for manifest in manifests:
        name = manifest.producer.step
        if name not in STEPS:
            yield Problem(code="producer", words=f"No step is called '{name}'.")
        elif manifest.producer.knobs != knobs_digest(get_step(name), grounds.params):
            yield Problem(
                code="stale_step",
                words=f"Step '{name}' ran with other knobs than params.yaml holds: run `dvc repro`.",
            )


def _listed(digests: Mapping[str, str], name: str) -> list[str]:
    """The digests of a list input, in order."""
    found = [key for key in digests if key.startswith(f"{name}.")]
    return [digests[key] for key in sorted(found, key=lambda key: int(key.rpartition(".")[2]))]
